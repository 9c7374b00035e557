"""What a GGUF file holds, tensor by tensor: blocks as they are, and the sizes that its header names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from specdec.errors import UnsupportedModelError
from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.layouts import TYPES
from specdec.models.files import WRITE_AGAIN, refusal
from specdec.models.gguf import Header

REMEDY = "Load it with dtype='bfloat16' or 'int4', which reads the widened weights."
FLOATS = {"F32": torch.float32, "F16": torch.float16}


@dataclass(frozen=True)
class FileSizes:
    """The sizes that a header names."""

    header: Header
    path: Path

    def number(self, key: str, default: float | None = None) -> Any:
        """One of the architecture's own values."""
        value = self.header.values.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise refusal(self.path, f"it says {self.architecture}.{key} = {value!r}", WRITE_AGAIN)
        return value

    @property
    def architecture(self) -> str:
        """What the file calls it."""
        return str(self.header.values["general.architecture"])

    @cached_property
    def hidden(self) -> int:
        """Width of the stream."""
        return int(self.number("embedding_length"))

    @cached_property
    def inner(self) -> int:
        """Width of the feed-forward part."""
        return int(self.number("feed_forward_length"))

    @cached_property
    def layers(self) -> int:
        """How many."""
        return int(self.number("block_count"))

    @cached_property
    def heads(self) -> int:
        """Of queries."""
        return int(self.number("attention.head_count"))

    @cached_property
    def kv_heads(self) -> int:
        """Of keys and values."""
        return int(self.number("attention.head_count_kv", self.heads))

    @cached_property
    def head_size(self) -> int:
        """Numbers of a head."""
        return int(self.number("attention.key_length", self.hidden // self.heads))

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.header.tensors["token_embd.weight"].shape[-1]


@dataclass(frozen=True)
class BlockFile:
    """Tensors of an open file.

    Args:
        path, file, header: its own.
        device: where numbers go that are in no blocks.
    """

    path: Path
    file: BinaryIO
    header: Header
    device: torch.device | str

    def has(self, name: str) -> bool:
        """Whether the file holds the tensor."""
        return name in self.header.tensors

    def floats(self, name: str, size: int) -> Tensor:
        """One row of numbers, float32 [size]."""
        dtype = FLOATS.get(self._stored(name, (size,)))
        if dtype is None:
            raise self._refused(name, ", ".join(FLOATS))
        return self._checked(name, self._bytes(name).view(dtype).float()).to(self.device)

    def blocks(self, name: str, rows: int, k: int) -> Blocks:
        """A matrix."""
        kind = self._stored(name, (k, rows))
        if kind not in TYPES:
            raise self._refused(name, ", ".join(TYPES))
        found = Blocks(kind, self._bytes(name).view(rows, k // TYPES[kind].span, TYPES[kind].num_bytes), k)
        self._checked(name, found.halves())
        return found

    def _stored(self, name: str, shape: tuple[int, ...]) -> str:
        """Its type."""
        if not self.has(name):
            raise refusal(self.path, f"it has no tensor {name!r}", WRITE_AGAIN)
        stored = self.header.tensors[name]
        if stored.shape != shape:
            raise refusal(
                self.path, f"{name!r} has the shape {list(stored.shape)}, and its sizes ask for {list(shape)}",
                WRITE_AGAIN,
            )  # fmt: skip
        return stored.dtype

    def _refused(self, name: str, known: str) -> UnsupportedModelError:
        kind = self.header.tensors[name].dtype
        return refusal(self.path, f"{name!r} is {kind}, and dtype='gguf' keeps {known}", REMEDY)

    def _bytes(self, name: str) -> Tensor:
        self.file.seek(self.header.places[name])
        data = bytearray(self.header.tensors[name].bits // 8)
        if self.file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise refusal(self.path, f"it ends inside of {name!r}", WRITE_AGAIN)
        return torch.frombuffer(data, dtype=torch.uint8)

    def _checked(self, name: str, numbers: Tensor) -> Tensor:
        if not torch.isfinite(numbers).all():
            raise refusal(self.path, f"{name!r} holds NaN or infinite weights", WRITE_AGAIN)
        return numbers
