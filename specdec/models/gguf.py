"""Headers of GGUF files: read with every count and offset held against the file's length before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from specdec.models.files import opened, refusal
from specdec.models.plausible import check_config
from specdec.models.tables import DAMAGED, MOST_DIMENSIONS, Stored

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Type number → layout."""
STRING, ARRAY = 8, 9
LONGEST_NAME = 2**16
ALIGNMENT = 32
KEPT = 2**10
"""Entries of an array that are read; of longer ones (vocabularies) the length is all that is asked for here."""


class Damaged(Exception):
    """What is wrong with a file, in words that follow its name."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Args:
        values: by key; of an array of strings or a long one, its length as `Length`.
        tensors: by name, their shapes as the file has them (the fastest index first).
        places: by name, the byte of the file at which each begins.
    """

    values: dict[str, Any]
    tensors: dict[str, Stored]
    places: dict[str, int]


@dataclass(frozen=True)
class Length:
    """Of an array that was passed over."""

    count: int


def gguf_header(path: Path) -> Header:
    """Reads the header of a GGUF file.

    Raises:
        UnsupportedModelError: if the file is not what its header says, or a size in it is beyond every model's.
    """
    with _mapped(path) as data:
        try:
            header = _Reader(data).header()
        except Damaged as error:
            raise refusal(path, str(error), DAMAGED) from None
    _check_sizes(header, path)
    return header


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with opened(path) as file:
        if not file.read(1):
            raise refusal(path, "it is empty", DAMAGED)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


def _check_sizes(header: Header, path: Path) -> None:
    """The model's numbers, under the names that `check_config` knows."""
    names = {"block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "inner_size",
             "head_count": "num_attention_heads", "context_length": "max_position_embeddings",
             "expert_count": "num_experts"}  # fmt: skip
    model = header.values.get("general.architecture")
    if not isinstance(model, str):
        raise refusal(path, "it does not name its architecture", DAMAGED)
    for key, value in header.values.items():
        if key.startswith(f"{model}.") and not isinstance(value, Length):
            name = key.removeprefix(f"{model}.").replace(".", "_").removeprefix("attention_")
            check_config({names.get(name, name): value}, path)
    layers = header.values.get(f"{model}.block_count", 0)
    if isinstance(layers, int) and layers > len(header.tensors):
        raise refusal(path, f"it has {layers} layers and {len(header.tensors)} tensors", DAMAGED)


class _Reader:
    """Walks through a header. Nothing is read, and nothing made, beyond what the file's length allows."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    def header(self) -> Header:
        if bytes(self._data[:4]) != MAGIC:
            raise Damaged("it does not begin as a GGUF file does")
        self._place = 4
        version = self._number("<I")
        if version not in VERSIONS:
            raise Damaged(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} can be read")
        num_tensors, num_values = self._number("<Q"), self._number("<Q")
        self._check_count("values", num_values, 13)
        self._check_count("tensors", num_tensors, 24)
        values: dict[str, Any] = {}
        for _ in range(num_values):
            key = self._string(LONGEST_NAME)
            if key in values:
                raise Damaged(f"it has the key {key!r} twice")
            values[key] = self._value(key, self._number("<I"))
        tensors: dict[str, tuple[Stored, int]] = {}
        for _ in range(num_tensors):
            name = self._string(LONGEST_NAME)
            if name in tensors:
                raise Damaged(f"it has the tensor {name!r} twice")
            tensors[name] = self._tensor(name)
        places = self._places(values.get("general.alignment", ALIGNMENT), tensors)
        return Header(values, {name: stored for name, (stored, _) in tensors.items()}, places)

    def _number(self, layout: str) -> Any:
        size = struct.calcsize(layout)
        self._check_count("bytes", size, 1)
        (value,) = struct.unpack_from(layout, self._data, self._place)
        self._place += size
        return value

    def _check_count(self, what: str, count: int, least: int) -> None:
        """That many things, of at least so many bytes each, have room in the rest of the file."""
        if count * least > len(self._data) - self._place:
            raise Damaged(f"{count} {what} are announced at byte {self._place} of {len(self._data)}")

    def _string(self, longest: int | None = None) -> str:
        length = self._number("<Q")
        self._check_count("bytes", length, 1)
        if longest is not None and length > longest:
            raise Damaged(f"a name of {length} bytes is announced at byte {self._place}")
        text = bytes(self._data[self._place : self._place + length])
        self._place += length
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged(f"the text before byte {self._place} is no UTF-8") from None

    def _value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise Damaged(f"{key!r} is of the unknown type {kind}")
        return self._number(SCALARS[kind])

    def _array(self, key: str) -> Any:
        """Arrays of arrays are in the format, and in no model."""
        kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            self._check_count("strings", count, 8)
            for _ in range(count):
                self._string()
            return Length(count)
        if kind not in SCALARS:
            raise Damaged(f"{key!r} is an array of the type {kind}, which is not understood")
        layout = SCALARS[kind]
        size = struct.calcsize(layout)
        self._check_count("numbers", count, size)
        if count > KEPT:
            self._place += count * size
            return Length(count)
        return [self._number(layout) for _ in range(count)]

    def _tensor(self, name: str) -> tuple[Stored, int]:
        """A tensor, and where its bytes begin after the header."""
        num_dims = self._number("<I")
        if num_dims > MOST_DIMENSIONS:
            raise Damaged(f"tensor {name!r} has {num_dims} dimensions")
        shape = tuple(self._number("<Q") for _ in range(num_dims))
        kind, offset = self._number("<I"), self._number("<Q")
        try:
            dtype = GGMLQuantizationType(kind)
        except ValueError:
            raise Damaged(f"tensor {name!r} is of the unknown type {kind}") from None
        block, size = GGML_QUANT_SIZES[dtype]
        if not shape or not prod(shape) or shape[0] % block:
            raise Damaged(f"tensor {name!r} of shape {list(shape)} cannot be {dtype.name}")
        return Stored(dtype.name, shape, prod(shape) // block * size * 8), offset

    def _places(self, alignment: Any, tensors: dict[str, tuple[Stored, int]]) -> dict[str, int]:
        """Where the tensors begin. Every one lies in the file, in a place of its own."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise Damaged(f"its alignment is {alignment!r}, and a power of two is needed")
        end = -(-self._place // alignment) * alignment
        start = end
        for name, (stored, offset) in sorted(tensors.items(), key=lambda item: item[1][1]):
            if offset % alignment or start + offset < end:
                raise Damaged(f"tensor {name!r} begins at byte {offset} of the data, inside of another or out of line")
            end = start + offset + stored.bits // 8
            if end > len(self._data):
                raise Damaged(f"tensor {name!r} ends at byte {end} of {len(self._data)}")
        return {name: start + offset for name, (_, offset) in tensors.items()}
