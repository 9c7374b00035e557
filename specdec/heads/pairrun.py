"""What the runs of heads that draft token by token share: the rows that they give, and what is kept of states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.heads.config import HeadConfig
from specdec.kernels.markov import Grown
from specdec.models.base import PassOutput
from specdec.models.batch import SequenceRows
from specdec.models.chains import ChainDraw, DrawnChain
from specdec.models.pairs import TreeLimits


@dataclass(frozen=True)
class PairRows:
    """What a pass gives for each of its R rows with logits.

    Args:
        output: logits over the draft vocabulary, float32 [R, Vd], and what is known of the largest.
        states: [R, h], what the next step takes in place of the target's state.
    """

    output: PassOutput
    states: Tensor

    def split(self, counts: list[int]) -> list[PairRows]:
        """The first `counts[0]` rows, the next `counts[1]`, and so on."""
        if len(counts) == 1:
            return [self]
        return [
            PairRows(*rows)
            for rows in zip(self.output.split(counts, counts), torch.split(self.states, counts), strict=True)
        ]


@dataclass(frozen=True)
class StateLayout:
    """One state a token.

    Args:
        size: h.
        dtype, device: of the numbers.
    """

    size: int
    dtype: torch.dtype
    device: torch.device | str

    def bytes_per_token(self) -> int:
        """See `Layout`."""
        return self.size * self.dtype.itemsize

    def empty(self, num_slots: int) -> list[Tensor]:
        """See `Layout`: one tensor, [num_slots, h]."""
        return [torch.empty(num_slots, self.size, dtype=self.dtype, device=self.device)]


class PairRun(Protocol):
    """A head that drafts token by token at work, beside one target.

    The pair of the state at t and the token at t + 1 is, for the head, the token at position t: the first token of a
    text has no pair. So a text of n tokens is one of n - 1 for the head, and the entry of a pair lies at the slot of
    its token, since it depends on all up to that one.
    """

    config: HeadConfig
    layout: KVLayout
    """Of the pairs' keys and values."""
    states: StateLayout
    """Of the states that `fuse` gives."""

    def fuse(self, taps: Tensor) -> Tensor:
        """States of committed positions, [T, h], from the target's hidden states there, float32 [T, k, H]."""

    def step(self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, top: int) -> PairRows:
        """Runs pairs: committed ones, and nodes of drafts. Their keys and values are written to their slots.

        Args:
            pool: of the head's layout.
            parts: of each text the tokens of its pairs, counted as the head counts them.
            states: [T, h], one for each row.
            top: how many of the largest logits of each row are wanted; 0 for none.
        """

    def grow(
        self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, limits: Sequence[TreeLimits]
    ) -> list[Grown | None]:
        """Whole trees of the likeliest nodes behind the last rows of some texts, see `LikeliestTree`.

        Args:
            pool, parts, states: see `step`; the last row of each part alone has logits, and its slots have room for a
                tree.
            limits: of each tree; all but nodes and depth are the same for all.

        Returns:
            Of each tree the nodes in the target's tokens. None where it must be grown level by level: a level is a
            step unless a run says otherwise, or a score was no number.
        """
        return [None for _ in parts]

    def draw(
        self,
        pool: KVPool,
        parts: Sequence[SequenceRows],
        states: Tensor,
        draws: Sequence[ChainDraw],
        target_size: int,
    ) -> list[DrawnChain | None]:
        """Chains that are drawn token by token behind the last rows of some texts.

        Args:
            pool, parts, states: see `grow`.
            draws: of each chain.
            target_size: V, tokens of the target.

        Returns:
            The chains; None where they must be drawn level by level, see `grow`.
        """
        return [None for _ in parts]
