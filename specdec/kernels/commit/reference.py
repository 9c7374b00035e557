"""Accepted paths moved together in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def commit_paths(caches: Sequence[Tensor], moves: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Copies entries within every tensor of a cache, in place.

    Args:
        caches: [slots, …] each, of any dtype and strides.
        moves: for every sequence the slots that its kept rows are in, and those that they go to, in the path's order.
            Within a sequence a slot may be both, if it is read before it is written; no two sequences share one.
    """
    for sources, targets in moves:
        source, target = (torch.tensor(slots, dtype=torch.int64) for slots in (sources, targets))
        for cache in caches:
            cache[target] = cache[source]
