"""Each kernel beside its floor: the bytes that it must read, at the bandwidth that this machine has just now.

python -m benchmarks.kernels [--json FILE] [--repeats 15]

Linear layers have the shapes of SmolLM2-135M; so many copies of a layer's weights take turns that none is found in a
cache. Attention reads the keys and values of sequences that together do not fit there either. Reading speed and kernels
take turns within a repetition; ratios are formed within one, and their median is reported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.passes import reader, seconds
from specdec.cache import KVLayout
from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import PackedLinear, pack
from specdec.measure.environment import machine
from specdec.measure.results import save

SHAPES = {
    "query, key, value": (960, 576),
    "attention output": (576, 576),
    "gate and up": (3072, 576),
    "down": (576, 1536),
    "head": (49152, 576),
}
"""Columns and inputs."""
DTYPES = ("float32", "bfloat16", "int8", "int8_weight")
ROWS = (1, 2, 4, 8, 16, 32)
COLD = 96 << 20
"""Bytes that take turns: three times a large last-level cache."""
HEADS, KV_HEADS, HEAD_SIZE, CONTEXT = 9, 3, 64, 1024


def copies_of(n: int, k: int, dtype: str) -> list[PackedLinear]:
    """As many as are `COLD` together, and at least two."""
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(0)) / k**0.5
    first = pack(weight, dtype)
    return [first, *(pack(weight, dtype) for _ in range(max(1, COLD // first.num_bytes)))]


def linear(n: int, k: int, dtype: str) -> tuple[int, Callable[[int], None]]:
    """Bytes that a sweep over all copies reads, and what makes a sweep with so many rows."""
    layers = copies_of(n, k, dtype)
    inputs = {rows: torch.randn(rows, k, generator=torch.Generator().manual_seed(rows)) for rows in ROWS}

    def sweep(rows: int) -> None:
        for layer in layers:
            layer(inputs[rows])

    return sum(layer.num_bytes for layer in layers), sweep


def attention(dtype: torch.dtype) -> tuple[int, Callable[[int], None]]:
    """The same for the last rows of sequences of `CONTEXT` tokens, one after the other."""
    layout = KVLayout(1, KV_HEADS, HEAD_SIZE, dtype, heads_first=True)
    number = -(-COLD // (layout.bytes_per_token() * CONTEXT))
    generator = torch.Generator().manual_seed(0)
    keys, values, *scales = layout.empty(number * CONTEXT)
    for side in (keys, values):
        side.copy_((10 * torch.randn(side.shape, generator=generator)).to(dtype))
    for side in scales:
        side.fill_(0.02)
    held = key_values(keys, values, *(scales or (None, None)))
    kernels = native.library()
    assert kernels is not None
    queries = {rows: torch.randn(rows, HEADS, HEAD_SIZE, generator=generator) for rows in ROWS}
    tables = {
        rows: [
            SequenceTable.of(
                SequenceColumns([rows], [CONTEXT - rows], [0], [torch.arange(i * CONTEXT, (i + 1) * CONTEXT)], [None])
            )
            for i in range(number)
        ]
        for rows in ROWS
    }

    def sweep(rows: int, keep_alive: object = (keys, values, scales)) -> None:
        for table in tables[rows]:
            native_attention(kernels, queries[rows], held, KV_HEADS, table, HEAD_SIZE**-0.5)

    return layout.bytes_per_token() * CONTEXT * number, sweep


def over_floor(num_bytes: int, sweep: Callable[[int], None], repeats: int) -> dict[str, object]:
    """Median of time / floor for every number of rows."""
    read = reader(num_bytes)
    rounds = []
    for _ in range(repeats + 1):  # the first warms up
        floor = seconds(read)
        rounds.append({rows: seconds(partial(sweep, rows)) / floor for rows in ROWS})
    ratios = {rows: [each[rows] for each in rounds[1:]] for rows in ROWS}
    return {
        "over_floor": {rows: median(each) for rows, each in ratios.items()},
        "range": {rows: [min(each), max(each)] for rows, each in ratios.items()},
    }


def table(results: dict[str, dict[str, object]]) -> str:
    """Markdown."""
    lines = [f"| kernel | {' | '.join(f'{n} rows' for n in ROWS)} |", "|" + "---|" * (len(ROWS) + 1)]
    for name, result in results.items():
        cells = (f"{value:.2f}" for value in result["over_floor"].values())  # type: ignore[attr-defined]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    kernels = native.library()
    if kernels is None:
        sys.exit("There are no native kernels to measure.")
    results = {
        f"{name}, {dtype}": over_floor(*linear(n, k, dtype), args.repeats)
        for name, (n, k) in SHAPES.items()
        for dtype in DTYPES
    }
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        name = f"attention over {CONTEXT} tokens, {str(dtype).removeprefix('torch.')} cache"
        results[name] = over_floor(*attention(dtype), args.repeats)
    print(machine(), f"Kernels: {kernels.isa}. Time over floor.", "", table(results), sep="\n")
    save(args.json, "benchmarks.kernels", results, kernels=kernels.isa, repeats=args.repeats)


if __name__ == "__main__":
    main()
