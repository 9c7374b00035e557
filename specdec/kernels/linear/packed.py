"""Weights packed for the native kernel (linear/cpu.h)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.errors import SpecdecError
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.memory import in_huge_pages
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.panels import PANEL, in_panels, matrix_of, rows_of
from specdec.kernels.linear.reference import BLOCK_KINDS, quantize_rows
from specdec.kernels.linear.rounding import in_blocks

TILE_WORDS = 16
"""4-byte words of k that a matrix tile takes."""
IN_BLOCKS = 4
KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "int8_weight": 3} | dict.fromkeys(BLOCK_KINDS, IN_BLOCKS)
"""Names of the kinds of weights: `int8` multiplies 8-bit activations too, `int8_weight` leaves those in float32.
`int4` and `gguf` are blocks of 32 weights, which multiply 8-bit activations: what a GGUF file has in blocks stays as it
is; other weights are rounded to 4 bits for `int4` and to 8 for `gguf`."""
HEAD_KINDS = {"int4": "gguf"}
"""Kind of a model's weights → that of its head, where it is another: a head of 4 bits costs the most in quality."""
GROUPS = {"float32": 1, "bfloat16": 2, "int8": 4, "int8_weight": 1}


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """x Wᵀ + b in native code; see `pack`. The bits of an output row depend on its input row alone.

    Args:
        width: columns of the output.
        struct: what the C interface takes; points into the tensors.
        tensors: keeps them alive.
        runs: of blocks, see `in_panels`.
    """

    width: int
    struct: interface.Linear
    tensors: tuple[Tensor | None, ...]
    runs: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors if tensor is not None)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of W as they are rounded, float32 [n, K]; ids: int64 [n], below `width`. Of a gated product there are
        none."""
        packed, scale = self.tensors[0], self.tensors[1]
        assert packed is not None
        assert not self.struct.gated
        if self.runs is not None:
            return rows_of(packed, self.runs, self.struct.k, ids)
        rows = packed[ids // PANEL, :, ids % PANEL].float().reshape(len(ids), packed.shape[1] * packed.shape[3])
        rows = rows[:, : self.struct.k]
        return rows if scale is None else rows * scale[ids, None]

    def matrices(self) -> list[Tensor]:
        """W as it is rounded, float32 [width, K]; of a gated product the gate, and then its values."""
        packed, scale, k = self.tensors[0], self.tensors[1], self.struct.k
        assert packed is not None
        if self.runs is not None:
            rows = matrix_of(packed, self.runs, k)
        else:
            rows = packed.float().transpose(1, 2).reshape(self.struct.n, -1)[:, :k]
            rows = rows if scale is None else rows * scale[:, None]
        if not self.struct.gated:
            return [rows[: self.width]]
        halves = rows.view(-1, 2, PANEL // 2, k)
        return [halves[:, side].flatten(0, 1)[: self.width] for side in range(2)]

    def repacked(self, kind: str) -> PackedLinear:
        """The same product with weights of another kind, a name of `KINDS`, made of these as they are rounded."""
        parts, offset = self.matrices(), self.tensors[3]
        return pack(parts, kind, None if offset is None else offset[: self.width], bool(self.struct.gated))

    @property
    def bits(self) -> float:
        """Of one weight, with its share of scales and minima."""
        return 8 * self.num_bytes / int(self.struct.n * self.struct.k)

    def __call__(self, x: Tensor, kernels: native.Library | None = None) -> Tensor:
        """float [..., K] → float32 [..., width].

        Raises:
            SpecdecError: if K is not that of the weights, or if there are no kernels.
        """
        kernels = kernels or native.library()
        if kernels is None:
            raise SpecdecError("Packed weights need the native kernels. Install a C++ compiler, such as g++.")
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).float().contiguous()
        out = torch.empty(rows.shape[0], self.width)
        inputs, outputs, threads = native.address(rows), native.address(out), num_threads()
        kernels.linear(self.struct, inputs, len(rows), rows.shape[1], outputs, self.width, threads)
        return out.view(*x.shape[:-1], self.width)


def pack(
    weights: Tensor | Sequence[Tensor],
    kind: str,
    bias: Tensor | Sequence[Tensor | None] | None = None,
    gated: bool = False,
) -> PackedLinear:
    """Packs a weight matrix, or several that are stacked (query, key and value).

    Args:
        weights: float [N, K] each.
        kind: a name of `KINDS`; int8 weights get one scale per output column.
        bias: float [N] each, or None.
        gated: `weights` are a gate and the values it multiplies: the product is silu(x Gᵀ) · (x Vᵀ). It has no bias.

    Raises:
        SpecdecError: for a gated product with a bias.
    """
    parts = [weights] if isinstance(weights, Tensor) else list(weights)
    if kind in BLOCK_KINDS:
        return pack_blocks([in_blocks(part, BLOCK_KINDS[kind]) for part in parts], bias, gated)
    offset = _offset(list(map(len, parts)), bias, gated)
    if gated:
        gate, value = (pad(part.float(), (0, 0, 0, -len(part) % (PANEL // 2))) for part in parts)
        matrix = torch.stack([gate.view(-1, PANEL // 2, gate.shape[1]), value.view(-1, PANEL // 2, gate.shape[1])], 1)
        matrix, width = matrix.reshape(-1, gate.shape[1]), len(parts[0])
    else:
        matrix = torch.cat([part.float() for part in parts])
        width = len(matrix)
        matrix = pad(matrix, (0, 0, 0, -width % PANEL))
        offset = None if offset is None else pad(offset, (0, -width % PANEL))
    scale = sums = None
    if kind == "bfloat16":
        matrix = matrix.bfloat16()
    elif kind != "float32":
        matrix, scale = quantize_rows(matrix)
        sums = matrix.sum(1, dtype=torch.int32) if kind == "int8" else None
    group = GROUPS[kind]
    k = matrix.shape[1]
    matrix = pad(matrix, (0, -k % (group * (TILE_WORDS if group > 1 else 1))))
    packed = in_huge_pages(matrix.view(-1, PANEL, matrix.shape[1] // group, group).transpose(1, 2))
    tensors = (packed, scale, sums, offset)
    addresses = [native.address(tensor) for tensor in tensors]
    return PackedLinear(width, interface.Linear(KINDS[kind], int(gated), len(matrix), k, *addresses), tensors)


def pack_blocks(
    parts: Sequence[Blocks], bias: Tensor | Sequence[Tensor | None] | None = None, gated: bool = False
) -> PackedLinear:
    """Packs one or several stacked weight matrices that are in blocks already, in any mixture of types.

    Args:
        parts: of the same number of inputs.
        bias, gated: see `pack`.

    Raises:
        SpecdecError: for a gated product with a bias, or if the types cannot be stacked.
    """
    offset = _offset(list(map(len, parts)), bias, gated)
    packed, runs = in_panels(parts, gated)
    columns = PANEL * int(runs[:, 1].sum())
    offset = None if offset is None else pad(offset, (0, columns - len(offset)))
    addresses = [native.address(packed), None, None, native.address(offset), native.address(runs)]
    struct = interface.Linear(IN_BLOCKS, int(gated), columns, parts[0].k, *addresses, len(runs))
    width = len(parts[0]) if gated else sum(map(len, parts))
    return PackedLinear(width, struct, (packed, None, None, offset), runs)


def _offset(sizes: list[int], bias: Tensor | Sequence[Tensor | None] | None, gated: bool) -> Tensor | None:
    """The biases of stacked products, float32; None if there are none."""
    biases = [None] * len(sizes) if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    if all(b is None for b in biases):
        return None
    if gated:
        raise SpecdecError("A gated product has no bias. Leave it out, or pack the two parts one by one.")
    return torch.cat([torch.zeros(n) if b is None else b.float() for n, b in zip(sizes, biases, strict=True)])
