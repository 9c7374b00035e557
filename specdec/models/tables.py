"""Tables of contents of weights: a safetensors file's header, read without reading a weight, and whether it is true."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from specdec.models.files import opened, parsed, refusal

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
"""Size of a number of each type that the format knows."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
MOST_DIMENSIONS = 8
DAMAGED = "Copy the file again: it may have been cut short or changed."


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Args:
        dtype: in the format's own words.
        shape: its sizes.
        bits: what it takes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


def safetensors_table(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name.

    Raises:
        UnsupportedModelError: if the header does not describe the bytes of this file.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise refusal(path, f"its header has {length} bytes, the file {size}", DAMAGED)
        header = parsed(file.read(length), path)
    header.pop("__metadata__", None)
    table, spans = {}, []
    for name, entry in header.items():
        table[name], span = _entry(path, name, entry)
        spans.append((*span, name))
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise refusal(path, f"tensor {name!r} begins at byte {begin}, the one before it ends at {end}", DAMAGED)
        end = stop
    if end != size - 8 - length:
        raise refusal(path, f"its tensors take {end} bytes, and {size - 8 - length} are there", DAMAGED)
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    """A tensor and its bytes, counted from the end of the header."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise refusal(path, f"tensor {name!r} lacks a dtype, a shape or two offsets", DAMAGED) from None
    if not isinstance(dtype, str) or dtype not in BITS:
        raise refusal(path, f"tensor {name!r} has the unknown dtype {dtype!r}", DAMAGED)
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(map(_is_count, (*shape, begin, end))):
        raise refusal(path, f"tensor {name!r} has sizes or offsets that are none", DAMAGED)
    bits = prod(shape) * BITS[dtype]
    if bits != 8 * (end - begin):
        raise refusal(path, f"tensor {name!r} of shape {shape} in {dtype} does not take {end - begin} bytes", DAMAGED)
    return Stored(dtype, tuple(shape), bits), (begin, end)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
