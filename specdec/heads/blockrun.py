"""What a block head's runs share: which rows they give, and what of the head they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.kernels.cpu import library as native
from specdec.kernels.markov import MarkovTerm
from specdec.models.batch import SequenceRows


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
    """What the token before a row adds."""
    places: Sequence[int]
    """Of each of the target's tokens its row in the term's W1: those of the draft vocabulary are its own numbers."""

    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """Writes the context's keys and values of some tokens, whatever texts they are of.

        Args:
            pool: of the head's layout.
            taps: float32 [T, k, H], the target's hidden states at the tapped boundaries.
            positions, slots: int64 [T], of the tokens, on the host.
        """

    def draft(self, pool: KVPool, blocks: Sequence[SequenceRows]) -> BlockRows:
        """Runs blocks: an anchor and its masks are a text's reserved rows. `logit_rows` are the rows that draft."""


def markov_term(head: BlockHead, kind: str = "float32", kernels: native.Library | None = None) -> MarkovTerm:
    """The head's Markov term, with the part of the confidence head that reads it.

    Args:
        head: whose.
        kind, kernels: see `MarkovTerm`.
    """
    before = after = weights = None
    if head.markov_head is not None:
        before, after = _by_place(head), head.markov_head.markov_w2.weight
        if head.confidence_head is not None and head.config.confidence_with_markov:
            weights = head.confidence_head.proj.weight[0, head.config.hidden_size :]
    return MarkovTerm(head.config.draft_vocab_size, before, after, weights, kind, kernels)


def places(head: BlockHead) -> list[int]:
    """See `BlockRun.places`: first the draft vocabulary, then, as far as W1 tells them apart, all others."""
    index, size = head.draft_index.clone(), head.config.draft_vocab_size
    if head.config.markov_all:
        others = index == size
        index[others] = torch.arange(size, size + int(others.sum()), device=index.device)
    found: list[int] = index.tolist()
    return found


def _by_place(head: BlockHead) -> Tensor:
    """W1 in the order of `places`."""
    assert head.markov_head is not None
    rows = head.markov_head.markov_w1.weight.detach()
    if not head.config.markov_all:
        return rows
    order = torch.empty(len(rows), dtype=torch.int64)
    order[places(head)] = torch.arange(len(rows))
    return rows[order.to(rows.device)]


def confidence_row(head: BlockHead) -> tuple[Tensor, Tensor] | None:
    """The confidence head's part that reads hidden states: weights [1, h] and bias [1], float32; None if there is no
    such head."""
    if head.confidence_head is None:
        return None
    proj = head.confidence_head.proj
    return proj.weight[:, : head.config.hidden_size].detach().float(), proj.bias.detach().float()
