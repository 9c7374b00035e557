"""What followed the end of the text before, in it or in earlier answers, will follow it again: as a tree of the
likeliest continuations."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from specdec.checks import flag, number, take, text, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, TargetHandle
from specdec.drafters.sizes import BRANCHES, DEPTH, MOST_NODES
from specdec.errors import ConfigError
from specdec.kernels.suffix import MATCH, NOTHING, Bounds, Index, Nodes, draft, suffix_index
from specdec.stores import STOCKED, Store, Vocabulary, opened, write
from specdec.stores.answers import Answers, Texts, latest
from specdec.verify.tree import DraftTree, TreeShape

ASSUMED = 0.6
"""Chance of a node of another drafter that gave none."""
STORE = text(f"the path of a file that `specdec store build` has made, {STOCKED!r} for the one that ships").or_none(
    " for none"
)


class SuffixDrafter(Drafter):
    """Looks up the longest matches of the text's end, and drafts the likeliest tree of what followed.

    Source: Oliaro et al. 2024, SuffixDecoding (arXiv 2411.04975): one suffix tree of the request, prompt and answer
    together, and one of earlier answers; nodes in falling frequency. Here the tree is an automaton, a node's chance is
    worked out from the two longest matches (`specdec.kernels.suffix.reference`), and counts leave out the end of the
    text itself, which nothing has followed yet.

    An answer is kept when its request ends, if a draft was asked for and the request does not say `store=False`.
    Requests of other salts never see it.

    Args:
        num_draft_tokens: γ, the longest branch.
        max_nodes: most tokens of a draft.
        branches: most candidates for one token; 1 proposes chains.
        floor: smallest chance, all tokens before it included, with which a token is drafted.
        shared: whether answers are kept for later requests. Then drafts depend on them, and only rules whose text does
            not depend on the draft may judge them.
        max_tokens: of the answers that are kept; of a `store` the latest so many are read.
        store: a file of texts that drafts may come from as well (`specdec store build`, `save`), or None. "stock": the
            answers of SmolLM2-135M-Instruct that ship, for targets of its tokenizer; for others it is as None.

    Raises:
        ConfigError: for an option out of range.
    """

    name = "suffix"
    extends = True

    def __init__(
        self,
        num_draft_tokens: int = 12,
        max_nodes: int = 12,
        branches: int = 3,
        floor: float = 0.06,
        shared: bool = True,
        max_tokens: int = 2**18,
        store: str | None = STOCKED,
    ) -> None:
        depth, width = take("num_draft_tokens", num_draft_tokens, DEPTH), take("branches", branches, BRANCHES)
        super().__init__(shape=TreeShape((-1,) * width + (0,) * (depth > 1) + tuple(range(width, width + depth - 2))))
        self.most: int = take("max_nodes", max_nodes, whole(1, MOST_NODES))
        self.floor = take("floor", floor, number(lambda value: 0 <= value < 1, "a number from 0 to less than 1"))
        self.branches = width
        self.shares = take("shared", shared, flag())
        self.store = take("store", store, STORE)
        self._answers = Answers(take("max_tokens", max_tokens, whole(1, 2**28)))
        self._read: Texts | None = None
        self._own: dict[int, _Text] = {}
        self._vocabulary: Vocabulary | None = None

    def max_nodes(self, max_depth: int) -> int:
        """See `Drafter.max_nodes`."""
        nodes, level = 0, 1
        for _ in range(min(max_depth, self.num_draft_tokens)):
            level = min(level * self.branches, self.most)
            nodes += level
        return min(nodes, self.most)

    def bind(self, target: TargetHandle) -> Needs:
        """Reads the store.

        Raises:
            StoreError: if it cannot be read, or was made for another tokenizer.
        """
        self._vocabulary = Vocabulary.of_tokenizer(target.model.vocab_size, target.tokenizer)
        store = None if self.store is None else opened(self.store, self._vocabulary)
        if store is not None:
            texts = [array("i", each) for each in store.texts()]
            self._read = Texts(latest(texts, self._answers.max_tokens))
        return Needs()

    def save(self, path: str | Path, salt: str = "") -> None:
        """Writes the texts that drafts of requests with this salt may come from, for `store` of a later drafter.

        Raises:
            ConfigError: if the drafter has no target yet, or the file cannot be written.
        """
        if self._vocabulary is None:
            raise ConfigError("The suffix drafter has no target yet; pass it to a SpeculativeGenerator, then save.")
        kept = chain(self._read.texts if self._read else (), self._answers.texts(salt))
        write(Path(path), Store.of(kept, self._vocabulary, note={"texts": "answers kept by the suffix drafter"}))

    def memory(self) -> int:
        """See `Drafter.memory`."""
        own = sum(each.index.nbytes for each in self._own.values())
        return own + self._answers.nbytes + (self._read.nbytes if self._read else 0)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The likeliest tree for each; empty where nothing is known of the text's end."""
        return [self._tree(self._draft(request, self._bounds(request))) for request in requests]

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """See `Drafter.extend`: adds the `max_nodes` likeliest nodes, at most."""
        return [self._extended(*each) for each in zip(requests, trees, strict=True)]

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Keeps the answer, and drops the request's own index."""
        own = self._own.pop(request_id, None)
        if own is not None and own.kept:
            self._answers.add(own.salt, tokens[own.first :])

    def _bounds(self, request: DraftRequest) -> Bounds:
        depth, floor = min(self.num_draft_tokens, request.max_depth), max(self.floor, request.floor)
        return Bounds(self.most, depth, self.branches, floor)

    def _extended(self, request: DraftRequest, tree: DraftTree) -> DraftTree:
        chances = tree.chances or (ASSUMED,) * len(tree)
        given = Nodes(tree.tokens, tree.parents, chances, tree.node_kinds)
        bounds = self._bounds(request)._replace(depth=request.max_depth)
        new = self._draft(request, bounds, given)
        return self._tree(
            Nodes(
                [*tree.tokens, *new.tokens],
                [*tree.parents, *new.parents],
                [*chances, *new.chances],
                [*given.kinds, *new.kinds],
            )
        )

    def _draft(self, request: DraftRequest, bounds: Bounds, given: Nodes = NOTHING) -> Nodes:
        sources = [self._known(request).index]
        if (answers := self._answers.index(request.salt)) is not None:
            sources.append(answers)
        if self._read is not None:
            sources.append(self._read.index)
        return draft(sources, request.tokens[-MATCH:], bounds, given)

    def _known(self, request: DraftRequest) -> _Text:
        """The request's text, up to its last token."""
        own = self._own.get(request.request_id)
        if own is None:
            kept = self.shares and request.store
            own = self._own[request.request_id] = _Text(request.salt, kept, request.num_prompt_tokens)
        own.index.extend(request.tokens[own.size :])
        own.size = len(request.tokens)
        return own

    @staticmethod
    def _tree(nodes: Nodes) -> DraftTree:
        return DraftTree(tuple(nodes.tokens), tuple(nodes.parents), None, tuple(nodes.kinds), tuple(nodes.chances))


@dataclass
class _Text:
    """A request's text as far as it is known.

    Args:
        salt, kept: who may see its answer later, if anyone.
        first: where the answer begins.
    """

    salt: str
    kept: bool
    first: int
    index: Index = field(default_factory=suffix_index)
    size: int = 0
