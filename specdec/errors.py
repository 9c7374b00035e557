"""Every error that `specdec` raises on purpose.

Each message names the offending value and says what to do about it. All of them derive from `SpecdecError`, so that a
service can tell a refused request from a defect.
"""

from __future__ import annotations


class SpecdecError(Exception):
    """Base class of all errors raised on purpose."""


class ConfigError(SpecdecError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class InvalidRequestError(SpecdecError, ValueError):
    """A prompt or its sampling parameters cannot be served."""


class UnsupportedModelError(SpecdecError):
    """The model cannot be loaded or cannot run under our attention."""


class OutOfBlocksError(SpecdecError, MemoryError):
    """The paged KV cache has fewer free blocks than were wanted.

    Attributes:
        wanted: blocks asked for.
        free: blocks that were free.
        total: blocks in the cache.
    """

    def __init__(self, wanted: int, free: int, total: int, remedy: str = "") -> None:
        self.wanted, self.free, self.total = wanted, free, total
        remedy = remedy or "Raise num_blocks, or send fewer or shorter requests."
        super().__init__(f"KV cache: {wanted} blocks wanted, {free} free of {total}. {remedy}")


class NumericalError(SpecdecError, ArithmeticError):
    """Logits or probabilities that no token can be drawn from (NaN, or no mass left)."""
