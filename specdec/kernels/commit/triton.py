"""Moves an accepted path together in the paged cache: all layers, both sides, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.device import upload


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
    froms = [slot for sources, _ in moves for slot in sources]
    tos = [slot for _, targets in moves for slot in targets]
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in groups.values()]
    tables = upload([starts, froms, tos, *addresses], torch.int64, caches[0].device)
    where, at_first, at_last, *there = tables
    for (_, width), tensors, at in zip(groups, groups.values(), there, strict=True):
        commit_kernel[(len(moves), len(tensors))](
            at, tensors[0], where, at_first, at_last, WIDTH=width, BLOCK=min(1024, triton.next_power_of_2(width))
        )
