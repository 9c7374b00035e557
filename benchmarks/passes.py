"""What a pass costs, beside the floor: reading the weights once at the bandwidth that this machine has just now.

python -m benchmarks.passes [--json FILE] [--dtypes float32,bfloat16,int8,int4,gguf] [--context 256] [--repeats 15]

Reading speed and passes of every row count take turns within a repetition, so that what else the machine does falls on
all of them alike; ratios are formed within a repetition, and their median is reported. The weights of two copies of the
model take turns too, so that no pass finds in a large last-level cache what the one before has left there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from specdec.cache.paged import PagedCache
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.memory import huge
from specdec.measure.environment import command, machine
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.blockfile import read_blocks
from specdec.models.native import NativeModel
from specdec.models.sources import embedded_folder, embedded_gguf

ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
COPIES = 2
REFERENCE = "bfloat16"


def reader(size: int) -> Callable[[], None]:
    """Reads `size` bytes with all threads, other ones each time."""
    kernels = native.library()
    assert kernels is not None
    buffers = [huge(size).fill_(1) for _ in range(COPIES)]
    turn = iter(range(1 << 62))

    def read() -> None:
        buffer = buffers[next(turn) % COPIES]
        kernels.read(buffer.data_ptr(), size, torch.get_num_threads())

    return read


def passer(models: list[NativeModel], context: int) -> Callable[[int], None]:
    """Verifies n rows of one sequence after `context` cached tokens, with all logits; the copies take turns."""
    ready = []
    for model in models:
        cache = PagedCache(model.kv_layout, num_blocks=-(-(context + max(ROWS)) // 16))
        cache.add(0)
        _run(model, cache, context)
        cache.commit(0, context)
        ready.append((model, cache))
    turn = iter(range(1 << 62))
    return lambda rows: _run(*ready[next(turn) % len(ready)], rows)


def copies(dtype: str) -> list[NativeModel]:
    """The embedded model, so often that its weights take turns."""
    if dtype == "gguf":
        return [read_blocks(embedded_gguf(), dtype) for _ in range(COPIES)]
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    return [NativeModel(module, dtype, dtype) for _ in range(COPIES)]


def _run(model: NativeModel, cache: PagedCache, rows: int) -> None:
    cache.reserve(0, rows)
    tokens = [100 + row for row in range(rows)]
    part = SequenceRows(tokens, cache.slots(0), cache.length(0), logit_rows=range(rows))
    model.run(RaggedBatch.build([part]), cache.target)


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = perf_counter()
    call()
    return perf_counter() - began


Round = tuple[float, dict[int, float]]
"""Seconds of one reading of the weights, and of a pass by its rows."""


def measure(
    copies: Mapping[str, list[NativeModel]], context: int, repeats: int, reference: str = REFERENCE
) -> dict[str, dict[str, object]]:
    """What there is to say of every model, of which there are copies; they take turns within a repetition.

    Args:
        copies: by what the models differ in, such as their dtype.
        context: cached tokens.
        repeats: rounds that count.
        reference: the model whose passes the others' are compared with, if it is among them.
    """
    ready = {
        dtype: (models[0].num_bytes, reader(models[0].num_bytes), passer(models, context))
        for dtype, models in copies.items()
    }
    rounds: dict[str, list[Round]] = {dtype: [] for dtype in ready}
    for turn in range(repeats + 2):
        order = [*ROWS[turn % len(ROWS) :], *ROWS[: turn % len(ROWS)]]  # what comes first finds its data far away
        for dtype, (_, read, run) in ready.items():
            for _ in range(COPIES):  # a last-level cache may hold as much of them as of the weights
                read()
            floor = seconds(read)
            rounds[dtype].append((floor, {rows: seconds(partial(run, rows)) for rows in order}))
    rounds = {dtype: each[2:] for dtype, each in rounds.items()}  # the first two warm up
    results = {dtype: summary(rounds[dtype], num_bytes) for dtype, (num_bytes, _, _) in ready.items()}
    if reference in rounds:
        for dtype, result in results.items():
            pairs = zip(rounds[dtype], rounds[reference], strict=True)
            result[f"t1_over_{reference}"] = median(own[1] / other[1] for (_, own), (_, other) in pairs)
    return results


def summary(rounds: Sequence[Round], num_bytes: int) -> dict[str, object]:
    """Medians of the ratios, and the times in milliseconds that they come from."""

    def ratio(rows: int) -> list[float]:
        return [times[rows] / times[1] for _, times in rounds]

    over_floor = [times[1] / floor for floor, times in rounds]
    return {
        "weight_bytes": num_bytes,
        "floor_ms": 1e3 * median(floor for floor, _ in rounds),
        "bandwidth_gb_s": num_bytes / median(floor for floor, _ in rounds) / 1e9,
        "t1_ms": 1e3 * median(times[1] for _, times in rounds),
        "t1_over_floor": median(over_floor),
        "t1_over_floor_range": [min(over_floor), max(over_floor)],
        "t8_over_t1": median(ratio(8)),
        "t16_over_t1": median(ratio(16)),
        "t_over_t1": {rows: median(ratio(rows)) for rows in ROWS},
    }


def table(results: dict[str, dict[str, Any]], reference: str = REFERENCE) -> str:
    """Markdown."""
    columns = ["dtype", "weights, MB", "GB/s", "floor, ms", "T(1)/floor (range)", f"T(1) to {reference}'s",
               *(f"T({n})/T(1)" for n in ROWS[1:])]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for dtype, result in results.items():
        low, high = result["t1_over_floor_range"]
        to_reference = result.get(f"t1_over_{reference}")
        cells = [dtype, f"{result['weight_bytes'] / 1e6:.0f}", f"{result['bandwidth_gb_s']:.1f}",
                 f"{result['floor_ms']:.2f}", f"{result['t1_over_floor']:.2f} ({low:.2f} to {high:.2f})",
                 "" if to_reference is None else f"{to_reference:.2f}",
                 *(f"{result['t_over_t1'][n]:.2f}" for n in ROWS[1:])]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dtypes", default="float32,bfloat16,int8,int4,gguf")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    kernels = native.library()
    if kernels is None:
        sys.exit("There are no native kernels to measure.")
    results = measure({dtype: copies(dtype) for dtype in args.dtypes.split(",")}, args.context, args.repeats)
    print(f"SmolLM2-135M, {args.context} cached tokens, {machine()}; {kernels.isa}", "", table(results), sep="\n")
    if args.json is not None:  # the dtypes at the top, where scripts look for them
        about = {"command": command("benchmarks.passes"), "machine": machine(), "kernels": kernels.isa}
        args.json.write_text(json.dumps(about | results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
