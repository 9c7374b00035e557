"""What all kinds of heads need in order to draft: settings, their vocabulary, trees to grow, states that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from specdec.cache import Layout, PagedCache, Pool
from specdec.drafters.base import DraftRequest, Outcome
from specdec.drafters.growth import GrowingTree, TokenMap
from specdec.drafters.likeliest import LikeliestTree
from specdec.heads.base import Head
from specdec.kernels.device import upload
from specdec.models.rows import joined
from specdec.verify.tree import ROOT, DraftTree, TreeShape

WIDTH = 4
"""Candidates of a node, and nodes of a level that are gone on from."""


@dataclass(frozen=True)
class HeadOptions:
    """What a user may set; see `HeadDrafter`.

    Args:
        shape: what is drawn, where the rule asks for draws; its depth is the longest branch of any tree.
        drawn: levels that are drawn at most, if each of them costs a pass.
        nodes: most tokens of a tree at temperature 0.
        floor, deepen: see `LikeliestTree`.
        weights: form of the head's weights on our kernels; None takes the target's.
        most_rows: rows that a pass of the head should not exceed.
    """

    shape: TreeShape
    drawn: int
    nodes: int
    floor: float
    deepen: float
    weights: str | None
    most_rows: int


class HeadDrafts(Protocol):
    """How heads of one kind draft."""

    shape: TreeShape
    """What is drawn, as deep as the head can draft."""
    layouts: tuple[Layout, ...]
    """Of the pools that are kept beside the target's. The last one holds what is made of the target's hidden states,
    and all others can be made of it."""

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""

    def most_nodes(self) -> int:
        """Nodes that every draft must have room for."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """See `Drafter.propose`."""

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Takes in the hidden states of some texts, each from where the last ones ended."""


class SaidTokens(TokenMap):
    """Which tokens a head can say. It reads all of the target's, as they are."""

    def read(self, tokens: Sequence[int]) -> list[int]:
        """See `TokenMap.read`."""
        return list(tokens)


class DraftWords:
    """The tokens that a head knows.

    Args:
        head: whose.
        device: where its logits are.
    """

    def __init__(self, head: Head, device: torch.device | str) -> None:
        self.ids: list[int] = head.draft_ids.tolist()
        whole = head.config.draft_vocab_size == head.config.vocab_size
        self.map = None if whole else SaidTokens({token: at for at, token in enumerate(self.ids)}, device)
        """None if they are all of the target's."""


def start_tree(
    request: DraftRequest,
    shape: TreeShape,
    options: HeadOptions,
    words: DraftWords,
    slots: Tensor,
    committed: int,
    tail: Sequence[int],
) -> GrowingTree:
    """A tree to grow: the likeliest nodes where the text does not depend on the draft, else what the rule draws.

    Args:
        request: who asks.
        shape: to be drawn, and no deeper than this.
        options, words: of the head.
        slots, committed, tail: see `GrowingTree`.
    """
    if not request.rule.draft_invariant:
        drawn = (request.shape or shape).truncated(shape.depth)
        return GrowingTree(request, drawn, slots, committed, tail, known=words.map)
    most = _of_size(min(shape.depth, options.nodes), options.nodes)
    tree = LikeliestTree(request, most, slots, committed, tail, known=words.map, width=WIDTH)
    tree.floor, tree.deepen = max(options.floor, request.floor), options.deepen
    return tree


@cache
def _of_size(depth: int, nodes: int) -> TreeShape:
    """A shape that says no more than this. There are few of them."""
    return TreeShape((*TreeShape.chain(depth).parents, *[ROOT] * (nodes - depth)))


def take_in(
    paged: PagedCache, pool: Pool, outcomes: Sequence[Outcome], keep: Callable[[Tensor, Tensor, Tensor], object]
) -> None:
    """Keeps what a pool holds of the rows that stay. Behind a hole nothing is kept, since nothing could be read.

    Args:
        paged, pool: where.
        outcomes: of some texts, each with hidden states.
        keep: is given those states, [T, k, H], with their positions and slots, int64 [T] on the host.
    """
    fresh = [one for one in outcomes if paged.filled(one.request_id, pool) >= one.start]
    if not fresh:
        return
    spans = [(one.start, one.start + len(one.rows)) for one in fresh]
    slots = [paged.slots(one.request_id)[start:end] for one, (start, end) in zip(fresh, spans, strict=True)]
    positions = [torch.from_numpy(np.arange(start, end)) for start, end in spans]
    keep(_kept(fresh), joined(positions), joined(slots))
    for one, (_, end) in zip(fresh, spans, strict=True):
        paged.fill(one.request_id, pool, end)


def _kept(outcomes: Sequence[Outcome]) -> Tensor:
    """Hidden states of the rows that stay, [n, k, H]."""
    parts: list[Tensor] = []
    chosen: list[int] = []
    for one in outcomes:
        assert one.hidden is not None
        first, hidden = sum(map(len, parts)), one.hidden
        if one.rows[-1] < len(one.rows):
            hidden = hidden[: len(one.rows)]  # a view, where none is left out
        parts.append(hidden)
        chosen += [first + row for row in one.rows]
    states = joined(parts)
    if len(chosen) == len(states):
        return states
    return states[upload([chosen], torch.int64, states.device)[0]]
