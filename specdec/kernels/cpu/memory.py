"""Memory for weights, in 2 MB pages where the system grants them."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20


def huge(size: int) -> Tensor:
    """Zeroed memory, uint8 [size], that begins on a 2 MB border.

    A kernel that streams weights through 4 KB pages waits for address translation, and leaves none of the host's
    translations in the core. Most systems give large pages to private memory alone, and a mapping is shared unless it
    is asked for otherwise.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    area = mmap.mmap(-1, size + HUGE_PAGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(area, dtype=torch.uint8)
    skip = -whole.data_ptr() % HUGE_PAGE
    return whole[skip : skip + size]


def in_huge_pages(tensor: Tensor) -> Tensor:
    """A copy of `tensor` there."""
    data = tensor.contiguous()
    out = huge(max(1, data.numel() * data.element_size()))[: data.numel() * data.element_size()]
    out = out.view(data.dtype).view(data.shape)
    out.copy_(data)
    return out
