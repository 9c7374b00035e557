"""What a pass costs with the types of blocks that GGUF files mix, beside the floor.

python -m benchmarks.mixtures [--json FILE] [--context 256] [--repeats 15]

A model of the embedded one's size, whose widths are multiples of 256, as the types with longer spans want them. Its
weights are random bytes: what a pass costs does not depend on them. Every mixture takes its turn within a repetition;
see `benchmarks.passes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.passes import COPIES, measure, table
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import PackedLinear, pack_blocks
from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.layouts import TYPES
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.llama import LlamaSizes
from specdec.models.native import NativeModel
from specdec.models.products import LayerProducts

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_SIZE, VOCABULARY = 16, 768, 2048, 12, 4, 64, 49152
REFERENCE = "Q4_1"


def more_bits(layer: int) -> bool:
    """Whether llama.cpp gives a layer's values and last product six bits in files that it calls Q4_K_M."""
    return layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2


MIXTURES: dict[str, tuple[str, str, Callable[[int], str]]] = {
    REFERENCE: ("Q8_0", "Q4_1", lambda layer: "Q4_1"),
    "Q4_K_M": ("Q6_K", "Q4_K", lambda layer: "Q6_K" if more_bits(layer) else "Q4_K"),
    "Q4_K": ("Q4_K", "Q4_K", lambda layer: "Q4_K"),
    "Q6_K": ("Q6_K", "Q6_K", lambda layer: "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0", lambda layer: "Q8_0"),
}
"""Name → type of the head, of most matrices, and of a layer's values and last product."""


def random_blocks(kind: str, rows: int, k: int) -> Blocks:
    """Of bytes below 0x30, so that every number in half precision is below 1/8."""
    shape = rows, k // TYPES[kind].span, TYPES[kind].num_bytes
    return Blocks(kind, torch.randint(0x30, shape, dtype=torch.uint8), k)


def model(name: str) -> NativeModel:
    """Of a mixture."""
    head, most, some = MIXTURES[name]
    width, kv_width = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE

    def layer(index: int) -> LayerProducts[PackedLinear]:
        sides = [random_blocks(most, rows, HIDDEN) for rows in (width, kv_width)]
        return LayerProducts(
            qkv=pack_blocks([*sides, random_blocks(some(index), kv_width, HIDDEN)]),
            o=pack_blocks([random_blocks(most, HIDDEN, width)]),
            gate_up=pack_blocks([random_blocks(most, INNER, HIDDEN) for _ in range(2)], gated=True),
            down=pack_blocks([random_blocks(some(index), HIDDEN, INNER)]),
            norms=(torch.ones(HIDDEN), torch.ones(HIDDEN), None, None),
            window=0,
        )

    frequencies = 1.0 / 10000.0 ** (torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE)
    sizes = LlamaSizes(HEADS, KV_HEADS, HEAD_SIZE, HIDDEN, INNER, VOCABULARY, 2048, 1e-5, HEAD_SIZE**-0.5, frequencies,
                       1.0, torch.ones(HIDDEN))  # fmt: skip
    output = pack_blocks([random_blocks(head, VOCABULARY, HIDDEN)])
    return NativeModel.of_products(sizes, [layer(index) for index in range(LAYERS)], output, output, name, "gguf")


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    kernels = native.library()
    if kernels is None:
        sys.exit("There are no native kernels to measure.")
    torch.manual_seed(0)
    models = {name: [model(name) for _ in range(COPIES)] for name in MIXTURES}
    results = measure(models, args.context, args.repeats, REFERENCE)
    print(f"{args.context} cached tokens, {machine()}; {kernels.isa}", "", table(results, REFERENCE), sep="\n")
    save(args.json, "benchmarks.mixtures", results, kernels=kernels.isa)


if __name__ == "__main__":
    main()
