"""A GGUF file's weights as they are: read block by block into the kernels, and never widened.

Names and layouts of tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from specdec.kernels.attention.native import MAX_HEAD_SIZE
from specdec.kernels.linear import pack_blocks
from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.layouts import BLOCK
from specdec.models.blocktensors import REMEDY, BlockFile, FileSizes
from specdec.models.files import WRITE_AGAIN, opened, refusal
from specdec.models.gguf import Header, Length, gguf_header
from specdec.models.llama import LlamaSizes
from specdec.models.native import NativeModel
from specdec.models.products import Assembly, LayerProducts, M, P

ARCHITECTURES = ("llama", "qwen2", "qwen3")
PAIRED = ("llama",)
"""Those whose files hold the two numbers that a rotation turns side by side; ours are half a head apart."""
PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
         "attn_q_norm", "attn_k_norm")  # fmt: skip
NATIVE = Assembly(pack_blocks, NativeModel.of_products)


def read_blocks(path: Path, name: str, kv_dtype: torch.dtype | None = None) -> NativeModel:
    """The model of a GGUF file on the native kernels, with the file's own blocks; see `assembled`."""
    return assembled(path, name, kv_dtype, NATIVE)


def assembled(path: Path, name: str, kv_dtype: torch.dtype | None, by: Assembly[P, M]) -> M:
    """The model of a GGUF file, with the file's own blocks.

    Args:
        path: of the file.
        name: what messages call the model.
        kv_dtype: what the cache holds; bfloat16 if left out.
        by: the kernels' way to hold it.

    Raises:
        UnsupportedModelError: if the file is broken, or holds what cannot be kept as it is: an architecture, a setting
            or a type of blocks; names it.
    """
    header = gguf_header(path)
    with opened(path) as file:
        read = BlockFile(path, file, header, by.device)
        sizes = FileSizes(header, path)
        _check_known(header, sizes, path)
        head, embedding = _ends(read, sizes, by)
        layers = [_layer(read, sizes, index, by) for index in range(sizes.layers)]
        return by.make(_sizes(read, sizes), layers, head, embedding, name, "gguf", kv_dtype)


def _check_known(header: Header, sizes: FileSizes, path: Path) -> None:
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


def _sizes(read: BlockFile, sizes: FileSizes) -> LlamaSizes:
    scaling = read.header.values.get(f"{sizes.architecture}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise refusal(read.path, f"its positions are scaled by {scaling!r}", REMEDY)
    size, base = sizes.head_size, float(sizes.number("rope.freq_base", 10000.0))
    frequencies = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    if scaling == "linear":
        frequencies /= float(sizes.number("rope.scaling.factor"))
    if read.has("rope_freqs.weight"):
        frequencies /= read.floats("rope_freqs.weight", size // 2).cpu()
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
        frequencies=frequencies.to(read.device),
        rope_factor=1.0,
        final_norm=read.floats("output_norm.weight", sizes.hidden),
    )


def _ends(read: BlockFile, sizes: FileSizes, by: Assembly[P, M]) -> tuple[P, P]:
    """Head and embedding, which may be one."""
    embedding = by.stack([read.blocks("token_embd.weight", sizes.vocabulary, sizes.hidden)])
    if not read.has("output.weight"):
        return embedding, embedding
    return by.stack([read.blocks("output.weight", sizes.vocabulary, sizes.hidden)]), embedding


def _layer(read: BlockFile, sizes: FileSizes, index: int, by: Assembly[P, M]) -> LayerProducts[P]:
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
        qkv=by.stack(qkv, biases),
        o=by.stack([matrix("attn_output", sizes.hidden, width)]),
        gate_up=by.stack([matrix(part, sizes.inner, sizes.hidden) for part in ("ffn_gate", "ffn_up")], gated=True),
        down=by.stack([matrix("ffn_down", sizes.hidden, sizes.inner)]),
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
