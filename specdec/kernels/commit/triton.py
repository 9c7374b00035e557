"""Moves an accepted path together in the paged cache: all layers, both sides, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.errors import ConfigError


@triton.jit
def commit_kernel(addresses, example, starts, sources, targets, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One sequence and one tensor of the cache, [slots, WIDTH].

    Moves follow each other in the order of the path. No row moves away from the root, so what a move overwrites was
    read by an earlier one, and by the same thread.
    """
    sequence = tl.program_id(0)
    cache = tl.load(addresses + tl.program_id(1)).to(tl.pointer_type(example.dtype.element_ty))
    i = tl.arange(0, BLOCK)
    for move in range(tl.load(starts + sequence), tl.load(starts + sequence + 1)):
        source, target = tl.load(sources + move).to(tl.int64), tl.load(targets + move).to(tl.int64)
        for begin in range(0, WIDTH, BLOCK):
            there = begin + i < WIDTH
            entry = tl.load(cache + source * WIDTH + begin + i, mask=there)
            tl.store(cache + target * WIDTH + begin + i, entry, mask=there)


def commit_paths(caches: Sequence[Tensor], moves: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Copies entries within every tensor of a cache, in place. See `specdec.kernels.commit.reference`.

    Args:
        caches: dense [slots, …] each; those of one shape and dtype are served by one launch.
        moves: for every sequence the slots that its kept rows are in, and those that they go to, in the path's order.

    Raises:
        ConfigError: if a cache is not dense.
    """
    groups: dict[tuple[object, int], list[Tensor]] = {}
    for cache in caches:
        if not cache.is_contiguous():
            raise ConfigError("On a GPU a cache's tensors must be dense, slot after slot: turn heads_first off.")
        groups.setdefault((cache.dtype, cache[0].numel()), []).append(cache)
    if not groups or not any(sources for sources, _ in moves):
        return
    starts = [0]
    for sources, _ in moves:
        starts.append(starts[-1] + len(sources))
    device = caches[0].device

    def ints(values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device)

    where = ints(starts)
    froms = ints([slot for sources, _ in moves for slot in sources])
    tos = ints([slot for _, targets in moves for slot in targets])
    for (_, width), tensors in groups.items():
        addresses = ints([tensor.data_ptr() for tensor in tensors], torch.int64)
        commit_kernel[(len(moves), len(tensors))](
            addresses, tensors[0], where, froms, tos, WIDTH=width, BLOCK=min(1024, triton.next_power_of_2(width))
        )
