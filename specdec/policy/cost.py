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
from specdec.kernels.cpu.build import fingerprint
from specdec.kernels.device import wait_for
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.paths import entry_name
from specdec.places import alone_in
from specdec.policy.curve import ROWS, SHORT, CostCurve

LONG, MANY = 1024, 16
"""Cached tokens of two more measurements, of one row and of many: their difference to `SHORT` tells what each token
costs, and what it costs for every row more."""
ROUNDS, MOST_ROUNDS = 7, 60
AGREED, AGREEING = 1.05, 3
"""The least time of a kind is believed if so many lie within this factor: where the machine does something else too,
some kinds may have met a quiet moment, and others none yet."""
ALONE = Path(__file__).parent
"""Processes that measure take turns: each would be what disturbs the other."""
FORMAT = "7"
"""Of the files; another one is measured anew, as with other kernels or another CPU."""


def cost_curve(model: CausalLM, folder: Path | None = None) -> CostCurve:
    """The curve of `model`, from a file if it was measured before on this machine with as many threads.

    Args:
        model: the target.
        folder: where curves are kept; None measures anew and keeps nothing.
    """
    threads = str(torch.get_num_threads())
    marks = (FORMAT, model.name, str(model.kv_layout), str(model.vocab_size), threads, fingerprint())
    with alone_in(ALONE):
        if folder is None:
            return measure(model)
        path = folder / f"{entry_name('cost', *marks)}.json"
        return kept_value(path, partial(measure, model), _curve_of, asdict)


def _curve_of(record: dict[str, Any]) -> CostCurve:
    """The curve that was kept.

    Raises:
        ValueError, TypeError, KeyError or OverflowError: if it can be none.
    """
    beside = float(record["per_token"]), float(record["per_row_token"])
    curve = CostCurve(tuple(map(int, record["rows"])), tuple(map(float, record["seconds"])), *beside)
    rising = all(a < b for a, b in pairwise(curve.rows)) and all(a <= b for a, b in pairwise(curve.seconds))
    lawful = len(curve.rows) == len(curve.seconds) >= 2 and rising and curve.rows[0] >= 1
    if not lawful or not all(0 <= each < math.inf for each in (*curve.seconds, *beside)):
        raise ValueError("no pass costs that")
    return curve


@torch.inference_mode()
def measure(model: CausalLM) -> CostCurve:
    """Times verification passes of one sequence after `SHORT` tokens, and some after `LONG`. Kinds of passes take
    turns, and of each the least time is kept: whatever else the machine does only adds to it. On a busy machine there
    are more turns."""
    room = model.max_context - max(ROWS) - 1
    short, long = min(SHORT, room), min(LONG, room)
    if short < 1:
        return CostCurve((1, 2), (1.0, 2.0))  # too short to speculate in: every row at its full price
    num_blocks = sum(-(-tokens // 16) for tokens in (short + max(ROWS), long + MANY))
    cache = PagedCache(model.kv_layout, num_blocks)
    for sequence, length in enumerate((short, long)):
        _fill(cache, sequence, length)
    kinds = [*((0, rows) for rows in ROWS), (1, 1), (1, MANY)]
    fastest: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    for turn in range(MOST_ROUNDS):
        for (sequence, rows), times in fastest.items():
            began = perf_counter()
            _run(model, cache, sequence, rows)
            wait_for(model.kv_layout.device)
            times[:] = sorted([*times, perf_counter() - began])[:AGREEING]
        if turn + 1 >= ROUNDS and all(times[-1] <= AGREED * times[0] for times in fastest.values()):
            break
    least = {kind: times[0] for kind, times in fastest.items()}
    shortest, apart = least[0, 1], max(long - short, 1)
    per_token = max(least[1, 1] - shortest, 0.0) / apart
    per_token = min(per_token, shortest / (2 * short))  # noise shall not make a pass free
    per_row_token = max((least[1, MANY] - least[0, MANY]) / apart - per_token, 0.0) / (MANY - 1)
    per_row_token = min(per_row_token, shortest / (2 * short * max(ROWS)))
    seconds: list[float] = []
    for rows in ROWS:
        beside = short * (per_token + (rows - 1) * per_row_token)
        seconds.append(max(least[0, rows] - beside, *seconds[-1:], 0.0))
    return CostCurve(ROWS, tuple(seconds), per_token, per_row_token)


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
    model.run(RaggedBatch.build([part]), cache.target)
