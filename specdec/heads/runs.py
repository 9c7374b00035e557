"""Who runs a head: the CPU's kernels beside a target that they run, torch everywhere else."""

from __future__ import annotations

from specdec.errors import ConfigError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRun
from specdec.heads.medusa import MedusaHead
from specdec.heads.medusarun import MedusaRun
from specdec.heads.native import NativeBlock
from specdec.heads.nativepairs import NativePairs
from specdec.heads.pairrun import PairRun
from specdec.heads.pairs import PairHead
from specdec.heads.plain import PlainBlock
from specdec.heads.plainpairs import PlainPairs
from specdec.kernels.attention.native import MAX_HEAD_SIZE
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel


def block_run(head: BlockHead, target: CausalLM, weights: str | None = None) -> BlockRun:
    """A block head, ready to draft for a target.

    Args:
        head, target: the two.
        weights: form of the head's weights on the CPU's kernels; None takes the target's.

    Raises:
        ConfigError: if it is made for another target.
    """
    check(head, target)
    if isinstance(target, NativeModel) and head.config.causal and _fits(head):
        return NativeBlock(head, target, weights)
    return PlainBlock(head, target)


def pair_run(head: PairHead, target: CausalLM, weights: str | None = None) -> PairRun:
    """A head that drafts token by token, ready to draft for a target; see `block_run`."""
    check(head, target)
    if isinstance(target, NativeModel) and _fits(head):
        return NativePairs(head, target, weights)
    return PlainPairs(head, target)


def medusa_run(head: MedusaHead, target: CausalLM, weights: str | None = None) -> MedusaRun:
    """Medusa heads, ready to draft for a target; see `block_run`."""
    check(head, target)
    return MedusaRun(head, target, weights)


def check(head: Head, target: CausalLM) -> None:
    """Raises ConfigError unless the head is made for the target."""
    config = head.config
    if reason := config.why_not(target):
        raise ConfigError(f"This head cannot draft for {target.name}: {reason}. Choose a head for this target.")
    if not config.own_embedding and config.hidden_size != target.hidden_size:
        raise ConfigError(
            f"This head of width {config.hidden_size} has no embedding of its own, and {target.name} is "
            f"{target.hidden_size} wide. Choose a head with own_embedding."
        )


def _fits(head: Head) -> bool:
    """Whether the CPU's kernels can run its layers."""
    return head.config.head_dim <= MAX_HEAD_SIZE and not head.config.o_bias
