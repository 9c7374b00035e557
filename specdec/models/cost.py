"""What a pass of n rows costs on this machine: measured once per model, then kept in a file."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from specdec.cache import PagedCache
from specdec.kernels.cpu.build import cpu_description
from specdec.models.base import CausalLM, RaggedBatch, SequenceRows

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
CONTEXT = 128
ROUNDS = 7
FEW, MOST_PASSES = 3, 30
"""Passes after which a point is known, and those that its mean goes back to at most."""
OUTLIER = 3.0
"""A pass that took more than so many times the mean was held up, and counts as no more than that."""


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a pass by its number of rows: given at some, straight lines in between and beyond.

    Args:
        rows: increasing, at least two.
        seconds: never decreasing.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def __call__(self, rows: int) -> float:
        """Seconds of a pass of `rows` rows."""
        right = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1)
        (r0, r1), (s0, s1) = self.rows[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
        return s0 + (s1 - s0) * (rows - r0) / (r1 - r0)


class LiveCurve:
    """A cost curve that follows what passes take now.

    A curve that was kept may be from another day: from a busier machine, or from older kernels. Points that passes were
    seen at are the mean of what was seen; the others move with them.

    Args:
        curve: what is believed before any pass was seen.
    """

    def __init__(self, curve: CostCurve) -> None:
        self._prior = curve
        self._rows = [rows for rows in ROWS if rows <= max(curve.rows[-1], 2)]
        self._seen: dict[int, tuple[int, float]] = {}  # rows → passes that count, their mean over the prior's time
        self._now = curve

    def __call__(self, rows: int) -> float:
        """Seconds of a pass of `rows` rows."""
        return self._now(rows)

    def observe(self, rows: int, seconds: float) -> None:
        """Learns from one pass. Longer ones than the curve's are left out."""
        if rows > self._rows[-1]:
            return
        point = min(self._rows, key=lambda each: abs(each - rows))
        count, mean = self._seen.get(point, (0, 0.0))
        ratio = seconds / self._prior(rows)
        if count >= FEW:
            ratio = min(ratio, OUTLIER * mean)
        count = min(count + 1, MOST_PASSES)
        self._seen[point] = count, mean + (ratio - mean) / count
        level = median(mean for _, mean in self._seen.values())
        scaled: list[float] = []
        for each in self._rows:
            count, mean = self._seen.get(each, (0, 0.0))
            doubt = max(FEW - count, 0)
            factor = (count * mean + doubt * level) / (count + doubt)
            scaled.append(max(factor * self._prior(each), *scaled[-1:], 0.0))
        self._now = CostCurve(tuple(self._rows), tuple(scaled))


def cost_curve(model: CausalLM, folder: Path | None = None) -> CostCurve:
    """The curve of `model`, from a file if it was measured before on this machine with as many threads.

    Args:
        model: the target.
        folder: where curves are kept; None measures anew and keeps nothing.
    """
    marks = (model.name, str(model.kv_layout), str(model.vocab_size), str(torch.get_num_threads()), cpu_description())
    name = hashlib.sha256("\0".join(marks).encode()).hexdigest()[:16]
    path = None if folder is None else folder / f"cost-{name}.json"
    if path is not None and path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return CostCurve(tuple(kept["rows"]), tuple(kept["seconds"]))
    curve = measure(model)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"model": model.name, **vars(curve)}) + "\n", encoding="utf-8")
    return curve


@torch.inference_mode()
def measure(model: CausalLM) -> CostCurve:
    """Times verification passes of one sequence after `CONTEXT` tokens; row counts take turns, medians are kept."""
    context = min(CONTEXT, model.max_context - max(ROWS) - 1)
    if context < 1:
        return CostCurve((1, 2), (1.0, 2.0))  # too short to speculate in: every row at its full price
    cache = PagedCache(model.kv_layout, num_blocks=-(-(context + max(ROWS)) // 16))
    cache.add(0)
    _run(model, cache, context)
    cache.commit(0, context)
    times: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for _ in range(ROUNDS):
        for rows in ROWS:
            began = perf_counter()
            _run(model, cache, rows)
            times[rows].append(perf_counter() - began)
    seconds: list[float] = []
    for rows in ROWS:
        # The least: whatever else the machine does only adds to it.
        seconds.append(max(min(times[rows]), *seconds[-1:], 0.0))
    return CostCurve(ROWS, tuple(seconds))


def _run(model: CausalLM, cache: PagedCache, rows: int) -> None:
    cache.reserve(0, rows)
    tokens = [row % model.vocab_size for row in range(rows)]
    part = SequenceRows(tokens, cache.slots(0), cache.length(0), logit_rows=range(rows))
    model.forward(RaggedBatch.build([part], cache.layout.device), cache)
