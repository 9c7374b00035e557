"""What a pass costs on this machine, by its rows and by the tokens that they attend to: measured once per model, then
kept in a file."""

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
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
SHORT, LONG = 128, 1024
"""Cached tokens: the difference tells what each of them costs."""
ROUNDS = 7
FORMAT = "2"
"""Of the files; another one is measured anew."""
FEW, MOST_PASSES = 3, 30
"""Passes after which a point is known, and those that its mean goes back to at most."""
OUTLIER = 3.0
"""A pass that took more than so many times the mean was held up, and counts as no more than that."""


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a pass by its number of rows: given at some, straight lines in between and beyond.

    Args:
        rows: increasing, at least two.
        seconds: never decreasing; without what is cached.
        per_token: seconds that every cached token of its sequences adds.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    per_token: float = 0.0

    def __call__(self, rows: int, cached: int = SHORT) -> float:
        """Seconds of a pass of `rows` rows whose sequences have `cached` tokens together."""
        right = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1)
        (r0, r1), (s0, s1) = self.rows[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
        return s0 + (s1 - s0) * (rows - r0) / (r1 - r0) + self.per_token * cached


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

    def __call__(self, rows: int, cached: int = SHORT) -> float:
        """As `CostCurve`."""
        return self._now(rows, cached)

    def observe(self, rows: int, seconds: float, cached: int = SHORT) -> None:
        """Learns from one pass. Longer ones than the curve's are left out."""
        if rows > self._rows[-1]:
            return
        point = min(self._rows, key=lambda each: abs(each - rows))
        count, mean = self._seen.get(point, (0, 0.0))
        ratio = seconds / self._prior(rows, cached)
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
            scaled.append(max(factor * self._prior(each, 0), *scaled[-1:], 0.0))
        self._now = CostCurve(tuple(self._rows), tuple(scaled), level * self._prior.per_token)


def cost_curve(model: CausalLM, folder: Path | None = None) -> CostCurve:
    """The curve of `model`, from a file if it was measured before on this machine with as many threads.

    Args:
        model: the target.
        folder: where curves are kept; None measures anew and keeps nothing.
    """
    threads = str(torch.get_num_threads())
    marks = (FORMAT, model.name, str(model.kv_layout), str(model.vocab_size), threads, cpu_description())
    name = hashlib.sha256("\0".join(marks).encode()).hexdigest()[:16]
    path = None if folder is None else folder / f"cost-{name}.json"
    if path is not None and path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return CostCurve(tuple(kept["rows"]), tuple(kept["seconds"]), kept["per_token"])
    curve = measure(model)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"model": model.name, **vars(curve)}) + "\n", encoding="utf-8")
    return curve


@torch.inference_mode()
def measure(model: CausalLM) -> CostCurve:
    """Times verification passes of one sequence after `SHORT` tokens, and one row after `LONG`. Kinds of passes take
    turns, and of each the least time is kept: whatever else the machine does only adds to it."""
    room = model.max_context - max(ROWS) - 1
    short, long = min(SHORT, room), min(LONG, room)
    if short < 1:
        return CostCurve((1, 2), (1.0, 2.0))  # too short to speculate in: every row at its full price
    num_blocks = sum(-(-tokens // 16) for tokens in (short + max(ROWS), long + 1))
    cache = PagedCache(model.kv_layout, num_blocks)
    for sequence, length in enumerate((short, long)):
        _fill(cache, sequence, length)
    kinds = [*((0, rows) for rows in ROWS), (1, 1)]
    least = dict.fromkeys(kinds, float("inf"))
    for _ in range(ROUNDS):
        for sequence, rows in kinds:
            began = perf_counter()
            _run(model, cache, sequence, rows)
            least[sequence, rows] = min(least[sequence, rows], perf_counter() - began)
    shortest = least[0, 1]
    per_token = max(least[1, 1] - shortest, 0.0) / max(long - short, 1)
    per_token = min(per_token, shortest / (2 * short))  # noise shall not make a pass free
    seconds: list[float] = []
    for rows in ROWS:
        seconds.append(max(least[0, rows] - short * per_token, *seconds[-1:], 0.0))
    return CostCurve(ROWS, tuple(seconds), per_token)


def _fill(cache: PagedCache, sequence: int, length: int) -> None:
    """A sequence of so many tokens; what they are makes no difference."""
    cache.add(sequence)
    cache.reserve(sequence, length)
    slots = cache.slots(sequence)
    for tensor in cache.target.tensors:
        tensor[slots] = 0
    cache.commit(sequence, length)


def _run(model: CausalLM, cache: PagedCache, sequence: int, rows: int) -> None:
    cache.reserve(sequence, rows)
    tokens = [row % model.vocab_size for row in range(rows)]
    part = SequenceRows(tokens, cache.slots(sequence), cache.length(sequence), logit_rows=range(rows))
    model.run(RaggedBatch.build([part], model.kv_layout.device), cache.target)
