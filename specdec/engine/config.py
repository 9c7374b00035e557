"""Sizes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import ConfigError
from specdec.models.base import CausalLM

DEFAULT_KV_BYTES = 1 << 30


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine.

    Args:
        block_size: tokens per cache block.
        num_blocks: blocks in the cache; None takes what `max_num_seqs` full contexts need, at most 1 GiB.
        max_batch_tokens: rows of one target pass. Longer prompts are read in several passes.
        max_num_seqs: requests that run at the same time; others wait.
        adaptive: draft less, or nothing, where the cost of a pass (measured once per model and machine) and the
            acceptance so far say that it does not pay. Applies to rules whose text does not depend on the draft.
    """

    block_size: int = 16
    num_blocks: int | None = None
    max_batch_tokens: int = 512
    max_num_seqs: int = 8
    adaptive: bool = False

    def __post_init__(self) -> None:
        for name in ("block_size", "num_blocks", "max_batch_tokens", "max_num_seqs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")

    def blocks_for(self, model: CausalLM) -> int:
        """Number of cache blocks to allocate for `model`."""
        if self.num_blocks is not None:
            return self.num_blocks
        wanted = self.max_num_seqs * -(-model.max_context // self.block_size)
        return max(1, min(wanted, DEFAULT_KV_BYTES // (model.kv_layout.bytes_per_token() * self.block_size)))
