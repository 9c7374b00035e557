"""What a pass costs on this machine: measured once for each model, then read from a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from time import perf_counter

import torch

from specdec.cache import PagedCache
from specdec.kernels.cpu.build import cpu_description
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.policy.curve import ROWS, SHORT, CostCurve

LONG = 1024
"""Cached tokens of one more measurement: its difference to `SHORT` tells what each of them costs."""
ROUNDS = 7
FORMAT = "2"
"""Of the files; another one is measured anew."""


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
        record = json.loads(path.read_text(encoding="utf-8"))
        return CostCurve(tuple(record["rows"]), tuple(record["seconds"]), record["per_token"])
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
