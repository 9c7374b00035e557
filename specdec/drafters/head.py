"""A trained head: it reads the target's hidden states, and drafts several tokens at once or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specdec.cache import PagedCache, Pool
from specdec.checks import either, instance, number, shown, take, text, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.blocks import BlockDrafts
from specdec.drafters.headparts import HeadDrafts, HeadOptions
from specdec.drafters.medusa import MedusaDrafts
from specdec.drafters.pairs import PairDrafts
from specdec.drafters.sizes import DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.medusa import MedusaHead
from specdec.heads.pairs import PairHead
from specdec.heads.shipped import head_for
from specdec.kernels.linear import KINDS
from specdec.models.base import CausalLM
from specdec.verify.tree import DraftTree

HEAD = either(text(), instance(Path, "a path"), instance(Head, "a head")).or_none(" for the one that ships")
NODES = whole(1, MOST_NODES)
WEIGHTS = text(f"one of {', '.join(KINDS)}").or_none(" for the target's")
FLOOR = number(lambda value: 0 <= value < 1, "a number from 0 to less than 1")


class HeadDrafter(Drafter):
    """Drafts with a trained head (`specdec.heads`): a block head (`BlockDrafts`), Medusa heads (`MedusaDrafts`), or one
    that drafts token by token, of the kinds EAGLE-1, -2, -3 and MTP (`PairDrafts`).

    Where the text does not depend on the draft (`greedy`, `gumbel`) it is a tree of the nodes of largest chances: of a
    block head its confidence times the softmax, of others the softmax, of logits and shared noise
    (`DraftRequest.ranked`). Under other rules it is drawn, node by node, as the rule's proof asks: a chain, or the tree
    of `branches` or `choices`. q is the law of the drawn token over all of the target's tokens, those that the head
    does not know among them: 0.

    A request of whose tokens it has not seen all hidden states goes without a draft.

    Sources: Chen et al. 2026 (DFlash, arXiv 2602.06036), DSpark (arXiv 2607.05147), JetSpec (arXiv 2606.18394); Li et
    al. 2024 (EAGLE, arXiv 2401.15077; EAGLE-2, 2406.16858), 2025 (EAGLE-3, 2503.01840); Cai et
    al. 2024 (Medusa, arXiv 2401.10774).

    Args:
        head: folder of the head, or a head; None takes the one that ships for the target.
        num_draft_tokens: γ, the longest branch; a head's own block may be shorter.
        max_nodes: most tokens of a tree.
        floor: a node of a tree is drafted only if the chance that it and those above it are accepted is at least so
            large.
        deepen: a head that drafts token by token runs another level of a tree only if the chances of its nodes add up
            to so much. A level that costs c passes of the target pays where that sum, times the share of children that
            are accepted, exceeds c · τ.
        drawn: longest branch that a head draws token by token, where q counts: such a draft cannot end where the head
            is unsure. Of `choices` all is drawn.
        branches: candidates for the first drawn token, each continued as a chain.
        choices: what is drawn by the ranks of its branches instead (see `TreeShape.choices`).
        weights: form of the head's weights on our kernels: float32, bfloat16, int8, int8_weight, int4 or gguf; None
            takes int8 for a head whose file holds int8, and the target's for others.

    Raises:
        ConfigError: for a value that cannot work.
    """

    name = "head"
    deterministic = False
    trimmable = True

    def __init__(
        self,
        head: str | Path | Head | None = None,
        num_draft_tokens: int = 8,
        max_nodes: int = 12,
        floor: float = 0.05,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        weights: str | None = None,
        deepen: float = 0.15,
        drawn: int = 3,
    ) -> None:
        super().__init__(num_draft_tokens, branches, self.chosen(choices))
        self._source: str | Path | Head | None = take("head", head, HEAD)
        self._nodes: int = take("max_nodes", max_nodes, NODES)
        self._weights: str | None = take("weights", weights, WEIGHTS)
        if self._weights is not None and self._weights not in KINDS:
            raise ConfigError(f"weights = {shown(weights)} cannot work. Give one of {', '.join(KINDS)}.")
        self._floor: float = take("floor", floor, FLOOR)
        self._deepen: float = take("deepen", deepen, FLOOR)
        levels: int = take("drawn", drawn, DEPTH)
        self._drawn = levels if choices is None else self.shape.depth
        self._drafts: HeadDrafts | None = None
        self._cache: PagedCache | None = None

    @property
    def ranks(self) -> bool:
        """See `Drafter.ranks`; not if the tree to be drawn was given."""
        return not self.trees

    def max_nodes(self, max_depth: int) -> int:
        """See `Drafter.max_nodes`."""
        if max_depth == 0:
            return 0
        least = 0 if self._drafts is None else self._drafts.most_nodes()
        return max(self._nodes, super().max_nodes(max_depth), least)

    def bind(self, target: TargetHandle) -> Needs:
        """Loads the head.

        Raises:
            ConfigError: if there is none for that target, or it is of a kind that cannot draft.
        """
        head = self._source if isinstance(self._source, Head) else head_for(target.model, self._source)
        weights = self._weights or head.quantized
        options = HeadOptions(
            self.shape, self._drawn, self._nodes, self._floor, self._deepen, weights, target.max_batch_tokens
        )
        self._drafts = _drafts_of(head, target.model, options)
        self.shape = self._drafts.shape
        pools = self._drafts.layouts
        return Needs(hidden=head.config.taps, pools=pools, whole_prefix=True, told=(len(pools) - 1,))

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        assert self._drafts is not None, "bind() comes first"
        self._cache = cache
        self._drafts.attach(cache, pools)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """See `Drafter.propose`."""
        return self.drafts.propose(requests)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Takes in the hidden states of all tokens that stay, whoever drafted them."""
        drafts, cache = self.drafts, self._cache
        told = [one for one in outcomes if one.hidden is not None and cache is not None and one.request_id in cache]
        if told:
            drafts.observe(told)

    @property
    def drafts(self) -> HeadDrafts:
        """How its head drafts.

        Raises:
            ConfigError: before `attach`.
        """
        if self._drafts is None or self._cache is None:
            raise ConfigError("The head drafter was used before attach(); pass it to a SpeculativeGenerator.")
        return self._drafts


def _drafts_of(head: Head, target: CausalLM, options: HeadOptions) -> HeadDrafts:
    if isinstance(head, BlockHead):
        return BlockDrafts(head, target, options)
    if isinstance(head, PairHead):
        return PairDrafts(head, target, options)
    if isinstance(head, MedusaHead):
        return MedusaDrafts(head, target, options)
    raise ConfigError(
        f"drafter 'head' runs no head of the kind {head.config.architecture!r}. Train or choose one of the kinds "
        "block, eagle3, eagle1, mtp or medusa."
    )
