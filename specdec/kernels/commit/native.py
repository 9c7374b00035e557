"""Accepted paths moved together by the native kernel: a torch call for each tensor would take ten times as long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native


class NativeCommit:
    """Moves entries within every tensor of one cache; see `specdec.kernels.commit.reference`.

    Args:
        kernels: the compiled library.
        caches: [slots, …] each, on the CPU, as `fits` asks.
    """

    def __init__(self, kernels: native.Library, caches: Sequence[Tensor]) -> None:
        self._kernels, self._caches = kernels, tuple(caches)
        self._structs = (interface.CommitTensor * len(self._caches))(*map(_described, self._caches))

    def __call__(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Moves one path: the slots that its kept rows are in, and those that they go to, in its order."""
        moves = np.array([*sources, *targets], np.int64)
        begin, count = moves.ctypes.data, len(sources)
        self._kernels.commit(self._structs, len(self._caches), begin, begin + count * moves.itemsize, count)


def fits(cache: Tensor) -> bool:
    """Whether the kernel knows how a cache's entries lie in memory: dense, slot after slot or head after head."""
    by_heads = cache.dim() > 1 and cache.transpose(0, 1).is_contiguous()
    return cache.device.type == "cpu" and (cache.is_contiguous() or by_heads)


def _described(cache: Tensor) -> interface.CommitTensor:
    size, slots = cache.itemsize, len(cache)
    if cache.is_contiguous():
        entry = cache.numel() // max(slots, 1) * size
        return interface.CommitTensor(cache.data_ptr(), slots, 1, entry, entry, entry)
    piece = cache[0, 0].numel() * size
    return interface.CommitTensor(cache.data_ptr(), slots, cache.shape[1], piece, piece * slots, piece)
