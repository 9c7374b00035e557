"""What a pass costs, beside the floor: reading the weights once at the bandwidth that this machine has just now.

python -m benchmarks.passes [--json FILE] [--markdown FILE] [--dtypes float32,bfloat16,int8] [--context 256]
    [--repeats 15]

Reading speed and passes of every row count take turns within a repetition, so that what else the machine does falls on
all of them alike; ratios are formed within a repetition, and their median is reported. The weights of two copies of the
model take turns too, so that no pass finds in a large last-level cache what the one before has left there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM

from benchmarks.machine import machine
from specdec.cache.paged import PagedCache
from specdec.kernels.cpu import native
from specdec.kernels.cpu.memory import huge
from specdec.models.base import RaggedBatch, SequenceRows
from specdec.models.loading import embedded_folder
from specdec.models.native import NativeModel

ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
COPIES = 2


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


def _run(model: NativeModel, cache: PagedCache, rows: int) -> None:
    cache.reserve(0, rows)
    tokens = [100 + row for row in range(rows)]
    part = SequenceRows(tokens, cache.slots(0), cache.length(0), logit_rows=range(rows))
    model.forward(RaggedBatch.build([part]), cache)


def seconds(call: Callable[[], None]) -> float:
    """Of one call."""
    began = perf_counter()
    call()
    return perf_counter() - began


def measure(dtype: str, context: int, repeats: int) -> dict[str, object]:
    """Medians of the ratios, and the times in milliseconds that they come from."""
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    models = [NativeModel(module, dtype, dtype) for _ in range(COPIES)]
    del module
    read, run = reader(models[0].num_bytes), passer(models, context)
    rounds = []
    for _ in range(repeats + 2):  # the first two warm up
        floor = seconds(read)
        rounds.append((floor, {rows: seconds(lambda n=rows: run(n)) for rows in ROWS}))  # type: ignore[misc]
    rounds = rounds[2:]

    def ratio(rows: int) -> list[float]:
        return [times[rows] / times[1] for _, times in rounds]

    over_floor = [times[1] / floor for floor, times in rounds]
    return {
        "weight_bytes": models[0].num_bytes,
        "floor_ms": 1e3 * median(floor for floor, _ in rounds),
        "bandwidth_gb_s": models[0].num_bytes / median(floor for floor, _ in rounds) / 1e9,
        "t1_ms": 1e3 * median(times[1] for _, times in rounds),
        "t1_over_floor": median(over_floor),
        "t1_over_floor_range": [min(over_floor), max(over_floor)],
        "t8_over_t1": median(ratio(8)),
        "t16_over_t1": median(ratio(16)),
        "t_over_t1": {rows: median(ratio(rows)) for rows in ROWS},
    }


def table(results: dict[str, dict[str, object]], context: int, repeats: int) -> str:
    """Markdown."""
    columns = ["dtype", "weights, MB", "GB/s", "floor, ms", "T(1)/floor (range)", *(f"T({n})/T(1)" for n in ROWS[1:])]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for dtype, result in results.items():
        low, high = result["t1_over_floor_range"]  # type: ignore[misc]
        curve = result["t_over_t1"]
        cells = [dtype, f"{result['weight_bytes'] / 1e6:.0f}", f"{result['bandwidth_gb_s']:.1f}",  # type: ignore[operator]
                 f"{result['floor_ms']:.2f}", f"{result['t1_over_floor']:.2f} ({low:.2f} to {high:.2f})",
                 *(f"{curve[n]:.2f}" for n in ROWS[1:])]  # type: ignore[index] # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    note = f"SmolLM2-135M, {context} cached tokens, medians of {repeats} interleaved repetitions. {machine()}."
    return "\n".join([note, "", *lines]) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--dtypes", default="float32,bfloat16,int8")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    kernels = native.library()
    if kernels is None:
        sys.exit("There are no native kernels to measure.")
    print(f"Kernels: {kernels.isa}")
    results = {dtype: measure(dtype, args.context, args.repeats) for dtype in args.dtypes.split(",")}
    text = table(results, args.context, args.repeats)
    if {"bfloat16", "int8"} <= results.keys():
        ratio = results["int8"]["t1_ms"] / results["bfloat16"]["t1_ms"]  # type: ignore[operator]
        text += f"\nint8 pass of one row: {ratio:.2f} × the bfloat16 pass.\n"
    print(text)
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": machine(), "kernels": kernels.isa, **results}, indent=1) + "\n")
    if args.markdown is not None:
        command = shlex.join(["python", "-m", "benchmarks.passes", *sys.argv[1:]])
        args.markdown.write_text(f"# What a pass costs\n\n`{command}` ({kernels.isa})\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
