"""What followed the end of the text in a large store of other texts will follow it again."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from specdec.checks import either, instance, number, take, text, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, TargetHandle
from specdec.drafters.sizes import BRANCHES, DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.kernels.retrieval import Grown, Index, Limits, grow
from specdec.stores import STOCKED, Store, Vocabulary, fitting, opened
from specdec.stores.order import DEPTH as SORTED
from specdec.stores.order import suffix_order
from specdec.typed import TypedPath
from specdec.verify.tree import DraftTree, TreeShape

logger = logging.getLogger("specdec")
ASSUMED = 0.5
"""Chance of a node of another drafter that gave none."""
LENGTHS, SHARES = 5, 8
"""Classes of the length of a match, by its bits, and of the chance: nodes of one kind share both."""
SURVIVAL = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
MATCH = whole(1, SORTED - 1)
STORE = either(text(), instance(Store, "")).but(
    f"the path of a file that `specdec store build` has made, or {STOCKED!r} for the answers that ship"
)


class RetrievalDrafter(Drafter):
    """Looks up the longest suffix of the text in a fixed store, and drafts the likeliest tree of what followed.

    Source: He et al. 2023, REST (arXiv 2311.08252): a store of texts in suffix order, mapped from its file and searched
    by halving; nodes by falling frequency. Here a follower's chance is also the smaller the shorter the match
    (`specdec.kernels.retrieval.reference`), so that a match of one token serves as well. Nothing is learnt from a
    request: its drafts depend on its own text and on the file alone.

    Args:
        store: a file that `specdec store build` has made for the target's tokenizer, or such a store. "stock": the
            answers of SmolLM2-135M-Instruct that ship, for targets of its tokenizer; for others nothing is drafted, and
            a warning is logged.
        num_draft_tokens: γ, the longest branch.
        max_nodes: most tokens of a draft.
        branches: most candidates for one token; 1 proposes chains.
        floor: least chance, all tokens before it included, with which a token is drafted.
        min_match, max_match: shortest and longest suffix to look up.

    Raises:
        ConfigError: for an option out of range.
    """

    name = "retrieval"
    extends = True

    def __init__(
        self,
        store: TypedPath | Store = STOCKED,
        num_draft_tokens: int = 10,
        max_nodes: int = 10,
        branches: int = 4,
        floor: float = 0.08,
        min_match: int = 1,
        max_match: int = 16,
    ) -> None:
        depth, width = take("num_draft_tokens", num_draft_tokens, DEPTH), take("branches", branches, BRANCHES)
        super().__init__(shape=TreeShape.fork(min(width, 2), depth))
        self.most: int = take("max_nodes", max_nodes, whole(1, MOST_NODES))
        self.branches: int = width
        self.floor: float = take("floor", floor, SURVIVAL)
        self.min_match, self.max_match = take("min_match", min_match, MATCH), take("max_match", max_match, MATCH)
        if self.min_match > self.max_match:
            raise ConfigError(f"min_match = {min_match} is above max_match = {max_match}. Lower the first.")
        self.store: str | Store = take("store", store, STORE)
        self._index: Index | None = None

    def bind(self, target: TargetHandle) -> Needs:
        """Opens the store.

        Raises:
            StoreError: if it cannot be read, or is the user's and was made for another tokenizer.
        """
        vocabulary = Vocabulary.of_tokenizer(target.model.vocab_size, target.tokenizer)
        store = self._opened(vocabulary)
        order = suffix_order(store.tokens) if store.order is None else store.order
        self._index = Index(store.tokens, order, store.vocabulary.size, SORTED)
        return Needs()

    def _opened(self, vocabulary: Vocabulary) -> Store:
        if isinstance(self.store, Store):
            return fitting(self.store, vocabulary)
        store = opened(self.store, vocabulary)
        if store is None:
            logger.warning(
                "The store that ships is for another tokenizer than the target's, so drafter 'retrieval' drafts "
                "nothing. Make a store with `specdec store build` and give its path: drafter.store=FILE."
            )
            store = Store.of((), vocabulary, ordered=True)
        return store

    def max_nodes(self, max_depth: int) -> int:
        """See `Drafter.max_nodes`."""
        return self.most if max_depth else 0

    def memory(self) -> int:
        """The store's bytes, of which those are in memory that were read lately."""
        return 0 if self._index is None else self._index.tokens.nbytes + self._index.order.nbytes

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The likeliest tree for each; empty where the store does not know the last token."""
        return [self._grown(request, DraftTree(), self.num_draft_tokens) for request in requests]

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """See `Drafter.extend`: adds the `max_nodes` likeliest nodes, at most."""
        return [self._grown(request, tree, request.max_depth) for request, tree in zip(requests, trees, strict=True)]

    def _grown(self, request: DraftRequest, tree: DraftTree, depth: int) -> DraftTree:
        if self._index is None:
            raise ConfigError("The retrieval drafter has no target yet; pass it to a SpeculativeGenerator.")
        depth = min(depth, request.max_depth)
        floor = max(self.floor, request.floor)
        limits = Limits(self.min_match, self.max_match, depth, self.most, self.branches, floor)
        chances = tree.chances or (ASSUMED,) * len(tree)
        new = grow(self._index, limits, request.tokens[-self.max_match :], tree.tokens, tree.parents, chances)
        return DraftTree(
            (*tree.tokens, *new.tokens),
            (*tree.parents, *new.parents),
            kinds=(*tree.node_kinds, *_kinds(new)),
            chances=(*chances, *new.chances),
        )


def _kinds(grown: Grown) -> list[int]:
    """By the length of the match and the chance: how good a guess is at each is then learnt."""
    return [
        SHARES * (min(matched.bit_length(), LENGTHS) - 1) + min(int(SHARES * chance), SHARES - 1)
        for matched, chance in zip(grown.matches, grown.chances, strict=True)
    ]
