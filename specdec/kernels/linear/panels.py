"""Blocks in the order in which the native kernel reads them (linear/blocks.h), and single rows read back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.cpu.memory import huge
from specdec.kernels.linear.blocks import Blocks, joined, numbers
from specdec.kernels.linear.layouts import BLOCK, TYPES, BlockType, parted

PANEL = 32
"""Output columns of a panel."""
HALF = 16
AT_ONCE = 1 << 18
"""Weights, about, that are put in order together: while they are, each takes some bytes more."""
REMEDY = "Load the model with dtype='bfloat16' or 'int4'."


def in_panels(parts: Sequence[Blocks], gated: bool) -> tuple[Tensor, Tensor]:
    """Puts stacked matrices in order.

    Args:
        parts: of the same number of inputs.
        gated: they are a gate and its values: half a panel of one stands before half a panel of the other.

    Returns:
        All panels, uint8, in huge pages; and int64 [runs, 3]: the type of neighbouring panels, how many they are, and
        where they begin.

    Raises:
        SpecdecError: if a panel would hold more than one type.
    """
    whole = [interleaved(*parts)] if gated else [joined(list(same)) for _, same in groupby(parts, lambda p: p.kind)]
    if any(len(part) % PANEL for part in whole[:-1]):
        raise SpecdecError(
            f"Matrices of {', '.join(str(len(part)) for part in whole)} rows in {', '.join(p.kind for p in whole)} "
            f"cannot be stacked: only multiples of {PANEL} can be followed by another type. {REMEDY}"
        )
    runs, at = [], 0
    for part in whole:
        runs.append([part.type.number, -(-len(part) // PANEL), at])
        at += runs[-1][1] * sum(_sizes(part.type, part.k)) * 2
    out = huge(at)
    for part, (_, panels, start) in zip(whole, runs, strict=True):
        size = sum(_sizes(part.type, part.k)) * 2
        _fill(out[start : start + panels * size].view(panels, 2, -1), part)
    return out, torch.tensor(runs, dtype=torch.int64)


def interleaved(gate: Blocks, value: Blocks) -> Blocks:
    """16 rows of a gate, then 16 of its values, and so on.

    Raises:
        SpecdecError: if they are of different types.
    """
    if gate.kind != value.kind:
        raise SpecdecError(f"A gate in {gate.kind} and its values in {value.kind} cannot be stacked. {REMEDY}")
    halves = [_filled(part.data, PANEL // 2).view(-1, PANEL // 2, *part.data.shape[1:]) for part in (gate, value)]
    return Blocks(gate.kind, torch.stack(halves, 1).flatten(0, 2), gate.k)


def _filled(rows: Tensor, multiple: int) -> Tensor:
    """With rows of zeros behind, up to a multiple. Scales and minima of zero make their weights zero."""
    missing = -len(rows) % multiple
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


def _sizes(kind: BlockType, k: int) -> list[int]:
    """Bytes of codes, fine numbers and halves in half a panel."""
    blocks = -(-k // BLOCK)
    return [HALF * blocks * kind.num_codes, HALF * blocks * kind.num_fines,
            HALF * blocks * BLOCK // kind.span * 2 * kind.num_halves]  # fmt: skip


def _fill(out: Tensor, part: Blocks) -> None:
    """Panels, uint8 [panels, 2, bytes], some at a time."""
    step = max(1, AT_ONCE // (PANEL * part.k))
    for first in range(0, len(out), step):
        some = Blocks(part.kind, _filled(part.data[PANEL * first : PANEL * (first + step)], PANEL), part.k)
        codes, fines, halves = torch.split(out[first : first + step], _sizes(part.type, part.k), -1)
        words = _in_halves(parted(some.codes(), part.type.num_codes // 4, 4)).permute(0, 1, 3, 4, 2, 5)
        codes.view(words.shape).copy_(words)
        for to, held in ((fines, some.fines()), (halves, some.halves())):
            columns = _in_halves(held).permute(0, 1, 3, 4, 2).contiguous()
            to.copy_(columns.view(torch.uint8).flatten(2))


def _in_halves(rows: Tensor) -> Tensor:
    """[rows, …] → [panels, 2, 16, …]."""
    return rows.reshape(len(rows) // PANEL, 2, HALF, *rows.shape[1:])


def matrix_of(panels: Tensor, runs: Tensor, k: int) -> Tensor:
    """The whole matrix as numbers, float32 [rows of all panels, K]; arguments as for `rows_of`, but any number of
    runs."""
    kinds, parts = {kind.number: kind for kind in TYPES.values()}, []
    for run in runs:
        number, count, start = run.tolist()
        size = count * 2 * sum(_sizes(kinds[number], k))
        parts.append(rows_of(panels[start : start + size], run[None], k, torch.arange(PANEL * count)))
    return torch.cat(parts)


def rows_of(panels: Tensor, runs: Tensor, k: int, ids: Tensor) -> Tensor:
    """Rows of the matrix as numbers, float32 [n, K].

    Args:
        panels, runs: what `in_panels` gives; one run.
        k: inputs.
        ids: int64 [n].
    """
    [[number, count, _]] = runs.tolist()
    [kind] = [kind for kind in TYPES.values() if kind.number == number]
    held, lanes, lane = panels.view(2 * count, -1)[ids // HALF], torch.arange(len(ids)), ids % HALF
    codes, fines, halves = (part.contiguous() for part in torch.split(held, _sizes(kind, k), 1))
    blocks = -(-k // BLOCK)
    codes = codes.view(len(ids), blocks, -1, HALF, 4)[lanes, :, :, lane].flatten(2)
    fines = fines.view(torch.int8).view(len(ids), blocks, kind.num_fines, HALF)[lanes, :, :, lane]
    halves = halves.view(torch.float16).view(len(ids), -1, kind.num_halves, HALF)[lanes, :, :, lane]
    return numbers(kind, codes, fines, halves, torch.float32)[:, :k]
