"""Memory for weights, in 2 MB pages where the system grants them."""

from __future__ import annotations

import mmap
import threading

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20
AREA = 32 << 20
"""Bytes that small pieces are cut from, one behind the other."""
LINE = 64
"""Bytes of a cache line, on whose border every piece begins."""


class Areas:
    """Hands out pieces of large mappings.

    A matrix of a small model is smaller than a large page, and a page of its own would hold little but zeros. So
    pieces share an area. It lives as long as any piece of it, and no byte is handed out twice.
    """

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """Zeroed memory, uint8 [size]. More than half an area is a mapping of its own."""
        if size > AREA // 2:
            return mapped(size)
        with self._lock:
            if size > len(self._rest):
                self._rest = mapped(AREA)
            piece, self._rest = self._rest[:size], self._rest[-(-size // LINE) * LINE :]
        return piece


def mapped(size: int) -> Tensor:
    """A mapping of its own, uint8 [size], that begins on a 2 MB border.

    Most systems give large pages to private memory alone, and a mapping is shared unless it is asked for otherwise.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    area = mmap.mmap(-1, size + HUGE_PAGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(area, dtype=torch.uint8)
    skip = -whole.data_ptr() % HUGE_PAGE
    return whole[skip : skip + size]


_AREAS = Areas()


def huge(size: int) -> Tensor:
    """Zeroed memory, uint8 [size], in large pages.

    A kernel that streams weights through 4 KB pages waits for address translation, and leaves none of the host's
    translations in the core.
    """
    return _AREAS.take(size)


def in_huge_pages(tensor: Tensor) -> Tensor:
    """A copy of `tensor` there."""
    data = tensor.contiguous()
    out = huge(data.numel() * data.element_size()).view(data.dtype).view(data.shape)
    out.copy_(data)
    return out
