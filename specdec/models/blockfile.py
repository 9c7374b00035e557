"""A GGUF file's weights as they are: read block by block into the native kernels, and never widened.

Names and layouts of tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.native import MAX_HEAD_SIZE
from specdec.kernels.linear import PackedLinear, pack_blocks
from specdec.kernels.linear.blocks import BLOCK, TYPES, Blocks
from specdec.models.files import WRITE_AGAIN, opened, refusal
from specdec.models.gguf import Header, Length, gguf_header
from specdec.models.llama import LlamaSizes
from specdec.models.native import NativeModel
from specdec.models.products import LayerProducts

ARCHITECTURES = ("llama", "qwen2", "qwen3")
PAIRED = ("llama",)
"""Those whose files hold the two numbers that a rotation turns side by side; ours are half a head apart."""
REMEDY = "Load it with dtype='bfloat16' or 'int4', which reads the widened weights."
PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
         "attn_q_norm", "attn_k_norm")  # fmt: skip
FLOATS = {"F32": torch.float32, "F16": torch.float16}


def read_blocks(path: Path, name: str, kv_dtype: torch.dtype | None = None) -> NativeModel:
    """The model of a GGUF file, with the file's own blocks.

    Args:
        path: of the file.
        name: what messages call the model.
        kv_dtype: what the cache holds; bfloat16 if left out.

    Raises:
        UnsupportedModelError: if the file is broken, or holds what cannot be kept as it is: an architecture, a setting
            or a type of blocks; names it.
    """
    header = gguf_header(path)
    with opened(path) as file:
        read = _File(path, file, header)
        sizes = _Sizes(header, path)
        _check_known(header, sizes, path)
        head, embedding = _ends(read, sizes)
        layers = [_layer(read, sizes, index) for index in range(sizes.layers)]
        return NativeModel.of_products(_sizes(read, sizes), layers, head, embedding, name, "gguf", kv_dtype)


@dataclass(frozen=True)
class _Sizes:
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
class _File:
    """Tensors of an open file."""

    path: Path
    file: BinaryIO
    header: Header

    def has(self, name: str) -> bool:
        """Whether the file holds the tensor."""
        return name in self.header.tensors

    def floats(self, name: str, size: int) -> Tensor:
        """One row of numbers, float32 [size]."""
        dtype = FLOATS.get(self._stored(name, (size,)))
        if dtype is None:
            raise self._refused(name, ", ".join(FLOATS))
        return self._checked(name, self._bytes(name).view(dtype).float())

    def blocks(self, name: str, rows: int, k: int) -> Blocks:
        """A matrix."""
        kind = self._stored(name, (k, rows))
        if kind not in TYPES:
            raise self._refused(name, ", ".join(TYPES))
        found = Blocks(kind, self._bytes(name).view(rows, k // BLOCK, TYPES[kind].num_bytes), k)
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


def _check_known(header: Header, sizes: _Sizes, path: Path) -> None:
    """Refuses what would be run otherwise than the file means."""
    if sizes.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise refusal(path, f"its architecture is {sizes.architecture!r}, and dtype='gguf' knows {known}", REMEDY)
    layers = {f"blk.{index}.{part}" for index in range(sizes.layers) for part in PARTS}
    known_tensors = layers | {"token_embd", "output", "output_norm", "rope_freqs"}
    for name in header.tensors:
        if name.rpartition(".")[0] not in known_tensors:
            raise refusal(path, f"it has the tensor {name!r}, which no plain {sizes.architecture} has", REMEDY)
    for key in ("attention.sliding_window", "attention.scale", "logit_scale", "residual_scale", "embedding_scale"):
        if f"{sizes.architecture}.{key}" in header.values:
            raise refusal(path, f"it sets {sizes.architecture}.{key}, which dtype='gguf' does not know", REMEDY)
    if any(isinstance(header.values.get(f"{sizes.architecture}.{key}"), list | Length)
           for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")):  # fmt: skip
        raise refusal(path, "its layers differ in size", REMEDY)
    rotated = sizes.number("rope.dimension_count", sizes.head_size)
    if rotated != sizes.head_size or rotated % 2 or rotated > MAX_HEAD_SIZE:
        raise refusal(path, f"{rotated} of the {sizes.head_size} numbers of a head are rotated", REMEDY)
    if sizes.hidden % BLOCK or sizes.inner % BLOCK or sizes.heads % sizes.kv_heads:
        shown = f"{sizes.hidden}, {sizes.inner}, {sizes.heads} and {sizes.kv_heads}"
        raise refusal(path, f"its widths and heads are {shown}, which cannot be", WRITE_AGAIN)


def _sizes(read: _File, sizes: _Sizes) -> LlamaSizes:
    scaling = read.header.values.get(f"{sizes.architecture}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise refusal(read.path, f"its positions are scaled by {scaling!r}", REMEDY)
    size, base = sizes.head_size, float(sizes.number("rope.freq_base", 10000.0))
    frequencies = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    if scaling == "linear":
        frequencies /= float(sizes.number("rope.scaling.factor"))
    if read.has("rope_freqs.weight"):
        frequencies /= read.floats("rope_freqs.weight", size // 2)
    return LlamaSizes(
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_size=size,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        vocab_size=sizes.vocabulary,
        max_context=int(sizes.number("context_length")),
        eps=float(sizes.number("attention.layer_norm_rms_epsilon")),
        scale=size**-0.5,
        frequencies=frequencies,
        rope_factor=1.0,
        final_norm=read.floats("output_norm.weight", sizes.hidden),
    )


def _ends(read: _File, sizes: _Sizes) -> tuple[PackedLinear, PackedLinear]:
    """Head and embedding, which may be one."""
    embedding = pack_blocks([read.blocks("token_embd.weight", sizes.vocabulary, sizes.hidden)])
    if not read.has("output.weight"):
        return embedding, embedding
    return pack_blocks([read.blocks("output.weight", sizes.vocabulary, sizes.hidden)]), embedding


def _layer(read: _File, sizes: _Sizes, index: int) -> LayerProducts[PackedLinear]:
    at, width, kv_width = f"blk.{index}.", sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size

    def matrix(part: str, rows: int, k: int) -> Blocks:
        return read.blocks(f"{at}{part}.weight", rows, k)

    def norm(part: str, size: int) -> Tensor | None:
        return read.floats(f"{at}{part}.weight", size) if read.has(f"{at}{part}.weight") else None

    for part in ("attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        if read.has(f"{at}{part}.bias"):
            raise refusal(read.path, f"its {part} has a bias, which the kernels do not know", REMEDY)
    widths = {"attn_q": width, "attn_k": kv_width, "attn_v": kv_width}
    qkv, biases = [], []
    for part, rows in widths.items():
        weight = matrix(part, rows, sizes.hidden)
        bias = read.floats(f"{at}{part}.bias", rows) if read.has(f"{at}{part}.bias") else None
        if sizes.architecture in PAIRED and part != "attn_v":
            weight = Blocks(weight.kind, _unpaired(weight.data, sizes.head_size), weight.k)
            bias = None if bias is None else _unpaired(bias, sizes.head_size)
        qkv.append(weight)
        biases.append(bias)
    return LayerProducts(
        qkv=pack_blocks(qkv, biases),
        o=pack_blocks([matrix("attn_output", sizes.hidden, width)]),
        gate_up=pack_blocks([matrix(part, sizes.inner, sizes.hidden) for part in ("ffn_gate", "ffn_up")], gated=True),
        down=pack_blocks([matrix("ffn_down", sizes.hidden, sizes.inner)]),
        norms=(
            read.floats(f"{at}attn_norm.weight", sizes.hidden),
            read.floats(f"{at}ffn_norm.weight", sizes.hidden),
            norm("attn_q_norm", sizes.head_size),
            norm("attn_k_norm", sizes.head_size),
        ),
        window=0,
    )


def _unpaired(rows: Tensor, head_size: int) -> Tensor:
    """Rows of heads in our order, from one in which row i and row i + D / 2 of ours are neighbours."""
    return rows.view(-1, head_size // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
