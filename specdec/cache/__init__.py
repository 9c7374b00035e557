"""Who remembers: a paged KV cache with reference-counted blocks."""

from specdec.cache.blocks import BlockAllocator
from specdec.cache.layout import CacheUsage, KVLayout
from specdec.cache.paged import PagedCache

__all__ = ["BlockAllocator", "CacheUsage", "KVLayout", "PagedCache"]
