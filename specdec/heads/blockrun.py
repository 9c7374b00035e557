"""What a block head's runs share: which rows they give, and what of the head they are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.kernels.cpu import library as native
from specdec.kernels.markov import MarkovTerm
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch


@dataclass(frozen=True)
class BlockRows:
    """What a pass over blocks gives for each of its R drafting rows, without what the token before adds.

    Args:
        logits: float32 [R, Vd].
        confidences: float32 [R], log-odds; None without a confidence head.
    """

    logits: Tensor
    confidences: Tensor | None


class BlockRun(Protocol):
    """A block head at work, beside one target."""

    config: HeadConfig
    layout: KVLayout
    """Of the context's keys and values."""
    term: MarkovTerm

    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """Writes the context's keys and values of some tokens, whatever texts they are of.

        Args:
            pool: of the head's layout.
            taps: float32 [T, k, H], the target's hidden states at the tapped boundaries.
            positions, slots: int64 [T], of the tokens, on the host.
        """

    def draft(self, pool: KVPool, batch: RaggedBatch) -> BlockRows:
        """Runs blocks: an anchor and its masks are a text's reserved rows. `logit_rows` are the rows that draft."""


def output_rows(head: BlockHead, target: CausalLM) -> Tensor:
    """Output rows of the draft vocabulary, float32 [Vd, h]: the head's own, or the target's."""
    if head.config.own_output:
        return head.lm_head.weight.detach().float()
    return target.unembed(head.draft_ids.tolist())


def markov_term(head: BlockHead, kind: str = "float32", kernels: native.Library | None = None) -> MarkovTerm:
    """The head's Markov term, with the part of the confidence head that reads it.

    Args:
        head: whose.
        kind, kernels: see `MarkovTerm`.
    """
    before = after = weights = None
    if head.markov_head is not None:
        before, after = head.markov_head.markov_w1.weight, head.markov_head.markov_w2.weight
        if head.confidence_head is not None and head.config.confidence_with_markov:
            weights = head.confidence_head.proj.weight[0, head.config.hidden_size :]
    return MarkovTerm(head.config.draft_vocab_size, before, after, weights, kind, kernels)


class ConfidenceRow:
    """The confidence head's part that reads hidden states.

    Args:
        head: whose; it has a confidence head.
    """

    def __init__(self, head: BlockHead) -> None:
        assert head.confidence_head is not None
        proj = head.confidence_head.proj
        self.weight, self.bias = proj.weight[0, : head.config.hidden_size].detach().float(), float(proj.bias.detach())

    def __call__(self, hidden: Tensor) -> Tensor:
        """float [R, h] → log-odds, float32 [R]."""
        return torch.mv(hidden.float(), self.weight) + self.bias
