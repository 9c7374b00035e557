"""Who remembers: block tables with reference counts, and the pools of numbers behind them."""

from specdec.cache.blocks import BlockAllocator
from specdec.cache.layout import CacheUsage, KVLayout
from specdec.cache.paged import PagedCache
from specdec.cache.pool import KVPool, Layout, Pool

__all__ = ["BlockAllocator", "CacheUsage", "KVLayout", "KVPool", "Layout", "PagedCache", "Pool"]
