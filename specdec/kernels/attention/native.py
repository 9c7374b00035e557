"""Attention by the native kernel (attention/cpu.h): the same bits for a row, whatever shares its pass."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.attention.columns import SequenceColumns
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads

CACHE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MAX_HEAD_SIZE = 256


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Whose rows a flat batch holds and what they attend to, as the C interface takes it.

    Args:
        struct: points into `held`.
        held: keeps alive what that is.
    """

    struct: interface.Sequences
    held: tuple[object, ...]

    @classmethod
    def of(cls, columns: SequenceColumns) -> SequenceTable:
        """One entry per sequence; parents are followed by the kernel itself."""
        slots, parents = columns.slots, columns.parents
        if len({*map(len, (columns.rows, columns.committed, columns.first, slots, parents))}) != 1 or not slots:
            raise SpecdecError(f"Columns are empty or differ in length: {columns}. Give one entry per sequence.")
        links = array("i", [parent for part in parents if part is not None for parent in part])
        held = (slots[0] if len(slots) == 1 else torch.cat(list(slots))).to(torch.int64).contiguous()
        lists = (
            [*accumulate(columns.rows, initial=0)],
            columns.committed,
            columns.first,
            [*accumulate(map(len, slots), initial=0)],
            [*accumulate([0 if part is None else len(part) for part in parents], initial=0)],
        )
        numbers, (rows, committed, first, borders, families) = native.packed(lists)
        struct = interface.Sequences(
            len(slots), rows, committed, first, borders, held.data_ptr(), families, links.buffer_info()[0]
        )
        return cls(struct, (numbers, held, links))


def kernels_for(head_size: int, dtype: torch.dtype, device: torch.device | str) -> native.Library | None:
    """The native library, if it is there and can attend over such a cache."""
    fits = torch.device(device).type == "cpu" and dtype in CACHE_KINDS and head_size <= MAX_HEAD_SIZE
    return native.library() if fits else None


def key_values(
    keys: Tensor, values: Tensor, key_scales: Tensor | None, value_scales: Tensor | None
) -> interface.KeyValues:
    """One layer of a cache: [slots, KV heads, head size], and float32 scales [slots, KV heads] if int8; all dense, with
    slots and heads in either order in memory.

    Raises:
        SpecdecError: if they are not.
    """
    size = keys.shape[2]
    steps = keys.stride(0) // size, keys.stride(1) // size
    sides = (keys, values) if key_scales is None or value_scales is None else (keys, values, key_scales, value_scales)
    for each, dtype in zip(sides, (keys.dtype, keys.dtype, torch.float32, torch.float32), strict=False):
        wanted = (*(step * size for step in steps), 1) if each.dim() == 3 else steps
        alike = each.shape == keys.shape[: each.dim()] and each.dtype == dtype and each.device.type == "cpu"
        if not alike or each.stride() != wanted or (len(sides) == 4) != (keys.dtype == torch.int8):
            raise SpecdecError(
                f"The kernels need keys, values and scales of one shape, dense on the CPU, with scales if int8; one is "
                f"{each.dtype} {list(each.shape)} in steps of {list(each.stride())}."
            )
    pointers = [None if each is None else each.data_ptr() for each in (keys, values, key_scales, value_scales)]
    if keys.dtype not in CACHE_KINDS:
        raise SpecdecError(f"The kernels hold no cache in {keys.dtype}. Use one of {', '.join(map(str, CACHE_KINDS))}.")
    return interface.KeyValues(CACHE_KINDS[keys.dtype], *pointers, *steps, *keys.shape)


def native_attention(
    kernels: native.Library,
    query: Tensor,
    cache: interface.KeyValues,
    kv_heads: int,
    table: SequenceTable,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """As `paged_attention` in reference.py, over a layer's `key_values`; float32 [T, query heads, head size]."""
    rows, heads, size = query.shape
    query = query.float().contiguous()
    out = torch.empty(rows, heads, size)
    shape = interface.Shape(heads, kv_heads, size, scale, window or 0, softcap or 0.0)
    kernels.attention(native.address(query), rows, cache, shape, table.struct, out.data_ptr(), num_threads())
    return out


def write(kernels: native.Library, cache: interface.KeyValues, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Puts rows [T, KV heads, head size] into their slots, int64 [T]; rounds or quantizes as the cache holds them."""
    rows, heads, size = keys.shape
    keys, values, slots = keys.float().contiguous(), values.float().contiguous(), slots.contiguous()
    shape = interface.Shape(heads, heads, size, 1.0, 0, 0.0)
    wanted = (rows, heads, size)
    pointers = native.address(slots, torch.int64, (rows,)), native.address(keys), native.address(values, shape=wanted)
    kernels.write(cache, shape, *pointers, rows)
