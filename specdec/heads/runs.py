"""Who runs a block head: the CPU's kernels beside a target that they run, torch everywhere else."""

from __future__ import annotations

from specdec.errors import ConfigError
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRun
from specdec.heads.native import NativeBlock
from specdec.heads.plain import PlainBlock
from specdec.kernels.attention.native import MAX_HEAD_SIZE
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel


def run_of(head: BlockHead, target: CausalLM, weights: str | None = None) -> BlockRun:
    """The head, ready to draft for a target.

    Args:
        head, target: the two.
        weights: form of the head's weights on the CPU's kernels; None takes the target's.

    Raises:
        ConfigError: if it is made for another target.
    """
    config = head.config
    if reason := config.why_not(target):
        raise ConfigError(f"This head cannot draft for {target.name}: {reason}. Choose a head for this target.")
    if not config.own_embedding and config.hidden_size != target.hidden_size:
        raise ConfigError(
            f"This head of width {config.hidden_size} has no embedding of its own, and {target.name} is "
            f"{target.hidden_size} wide. Choose a head with own_embedding."
        )
    if isinstance(target, NativeModel) and config.causal and config.head_dim <= MAX_HEAD_SIZE:
        return NativeBlock(head, target, weights)
    return PlainBlock(head, target)
