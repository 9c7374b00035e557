"""What a pass costs on this machine: measured once for each model, then read from a file."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from specdec.cache import PagedCache
from specdec.kept import kept_value
from specdec.kernels.cpu.build import cpu_description
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.paths import entry_name
from specdec.policy.curve import ROWS, SHORT, CostCurve

LONG = 1024
"""Cached tokens of one more measurement: its difference to `SHORT` tells what each of them costs."""
ROUNDS = 7
FORMAT = "3"
"""Of the files; another one is measured anew."""


def cost_curve(model: CausalLM, folder: Path | None = None) -> CostCurve:
    """The curve of `model`, from a file if it was measured before on this machine with as many threads.

    Args:
        model: the target.
        folder: where curves are kept; None measures anew and keeps nothing.
    """
    if folder is None:
        return measure(model)
    threads = str(torch.get_num_threads())
    marks = (FORMAT, model.name, str(model.kv_layout), str(model.vocab_size), threads, cpu_description())
    path = folder / f"{entry_name('cost', *marks)}.json"
    return kept_value(path, partial(measure, model), _curve_of, asdict)


def _curve_of(record: dict[str, Any]) -> CostCurve:
    """The curve that was kept.

    Raises:
        ValueError, TypeError, KeyError or OverflowError: if it can be none.
    """
    curve = CostCurve(tuple(map(int, record["rows"])), tuple(map(float, record["seconds"])), float(record["per_token"]))
    rising = all(a < b for a, b in pairwise(curve.rows)) and all(a <= b for a, b in pairwise(curve.seconds))
    lawful = len(curve.rows) == len(curve.seconds) >= 2 and rising and curve.rows[0] >= 1
    if not lawful or not all(0 <= each < math.inf for each in (*curve.seconds, curve.per_token)):
        raise ValueError("no pass costs that")
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
