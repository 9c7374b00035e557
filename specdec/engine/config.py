"""Sizes of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.cache import Layout
from specdec.checks import flag, instance, settle, whole
from specdec.engine.goals import Goals
from specdec.errors import ConfigError
from specdec.models.base import CausalLM

DEFAULT_KV_BYTES = 1 << 30
MOST_SLOTS = 2**31 - 1
KINDS = {
    "block_size": whole(1, 4096),
    "num_blocks": whole(1).or_none(" for what full contexts need"),
    "max_batch_tokens": whole(1, 2**20),
    "max_num_seqs": whole(1, 2**20),
    "prefix_cache": flag(),
    "goals": instance(Goals, "Goals(ttft_ms=…, tpot_ms=…)"),
}
"""What each size may be."""


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine.

    Args:
        block_size: tokens per cache block.
        num_blocks: blocks in the cache; None takes enough for `max_num_seqs` full contexts, at most 1 GiB, but always
            enough for one full context.
        max_batch_tokens: most rows of one target pass. Longer prompts are read in several passes.
        max_num_seqs: most requests that run at the same time; others wait.
        prefix_cache: keep what earlier texts have left in free cache blocks, for requests that begin alike.
        goals: latency goals for the planning of passes; none by default.

    Raises:
        ConfigError: if a size is not an integer, or out of range. The message names the size and the remedy.
    """

    block_size: int = 16
    num_blocks: int | None = None
    max_batch_tokens: int = 512
    max_num_seqs: int = 8
    prefix_cache: bool = True
    goals: Goals = field(default_factory=Goals)

    def __post_init__(self) -> None:
        settle(self, KINDS)
        if self.num_blocks is not None and self.num_blocks * self.block_size > MOST_SLOTS:
            raise ConfigError(
                f"num_blocks = {self.num_blocks} of block_size = {self.block_size} have more slots than the "
                f"{MOST_SLOTS} that kernels can number. Lower num_blocks."
            )

    def blocks_for(self, model: CausalLM, others: Sequence[Layout] = (), rows: int | None = None) -> int:
        """Number of cache blocks to allocate for `model`.

        Args:
            model: the target.
            others: layouts of further pools besides its own.
            rows: slots for one full context and the drafts at its end; there are never fewer. None counts no
                drafts.
        """
        if self.num_blocks is not None:
            return self.num_blocks
        full = -(-(rows or model.max_context) // self.block_size)
        bytes_per_token = sum(layout.bytes_per_token() for layout in (model.kv_layout, *others))
        return max(full, min(self.max_num_seqs * full, DEFAULT_KV_BYTES // (bytes_per_token * self.block_size)))
