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
        seconds.append(max(median(times[rows]), *seconds[-1:], 0.0))
    return CostCurve(ROWS, tuple(seconds))


def _run(model: CausalLM, cache: PagedCache, rows: int) -> None:
    cache.reserve(0, rows)
    tokens = [row % model.vocab_size for row in range(rows)]
    part = SequenceRows(tokens, cache.slots(0), cache.length(0), logit_rows=range(rows))
    model.forward(RaggedBatch.build([part], cache.layout.device), cache)
