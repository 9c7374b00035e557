"""Who runs a head: the kernels that run its target, or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from specdec.kernels.linear import BLOCK_KINDS
from specdec.models.base import CausalLM
from specdec.models.llama import LlamaModel
from specdec.models.native import NativeModel

if TYPE_CHECKING:
    from specdec.models.triton import TritonModel


def block_run(head: BlockHead, target: CausalLM, weights: str | None = None) -> BlockRun:
    """A block head, ready to draft for a target.

    Args:
        head, target: the two.
        weights: form of the head's weights on our kernels; None takes the target's.

    Raises:
        ConfigError: if it is made for another target.
    """
    check(head, target)
    if head.config.causal and _fits(head):
        if isinstance(target, NativeModel):
            return NativeBlock(head, target, weights)
        if (on_triton := _on_triton(target, weights)) is not None:
            from specdec.heads.triton import TritonBlock

            return TritonBlock(head, on_triton, weights)
    return PlainBlock(head, target)


def pair_run(head: PairHead, target: CausalLM, weights: str | None = None) -> PairRun:
    """A head that drafts token by token, ready to draft for a target; see `block_run`."""
    check(head, target)
    if _fits(head):
        if isinstance(target, NativeModel):
            return NativePairs(head, target, weights)
        if (on_triton := _on_triton(target, weights)) is not None:
            from specdec.heads.tritonpairs import TritonPairs

            return TritonPairs(head, on_triton, weights)
    return PlainPairs(head, target)


def medusa_run(head: MedusaHead, target: CausalLM, weights: str | None = None) -> MedusaRun:
    """Medusa heads, ready to draft for a target; see `block_run`."""
    check(head, target)
    if (on_triton := _on_triton(target, weights)) is not None:
        from specdec.heads.tritonmedusa import TritonMedusa

        return TritonMedusa(head, on_triton, weights)
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


def _on_triton(target: CausalLM, weights: str | None) -> TritonModel | None:
    """The target, if Triton's kernels run it. They may be missing: nothing of theirs is imported for other targets.

    Raises:
        ConfigError: if the head's weights are to be of a form that they do not know.
    """
    if not isinstance(target, LlamaModel) or isinstance(target, NativeModel):
        return None
    if weights in BLOCK_KINDS:
        raise ConfigError(f"weights={weights!r} needs the CPU's kernels, and {target.name} is on a GPU. Use 'int8'.")
    from specdec.models.triton import TritonModel

    assert isinstance(target, TritonModel)
    return target


def _fits(head: Head) -> bool:
    """Whether our kernels can run its layers."""
    return head.config.head_dim <= MAX_HEAD_SIZE and not head.config.o_bias
