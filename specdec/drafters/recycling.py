"""Token recycling: what the target ranked high after a few tokens, it will rank high after them again."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from specdec.checks import flag, number, take, whole
from specdec.drafters import odds
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.first_rows import first_rows, is_cheap, shipped_rows
from specdec.drafters.sizes import MOST_NODES
from specdec.errors import ConfigError
from specdec.kernels.successors import ORDER, PREVIOUS, TOKEN_BITS, WIDTH, Heard, Table, make
from specdec.stores import Vocabulary
from specdec.verify.tree import KINDS, ROOT, DraftTree

NODES = whole(1, MOST_NODES)
FLOOR = number(lambda value: 0 <= value < 1, "a number from 0 to less than 1")
CONTEXTS = (6, 24)
"""Powers of two."""
PRIVATE = 1 << 63
"""Marks the scope of a single request."""
GUESS = 0.5
"""Chance of another drafter's node that tells none."""
CHANCES = (0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.38, 0.5, 0.6, 0.7, 0.8, 0.88, 0.95)
"""Between them lie the chances of nodes of one kind."""
DEPTHS = 4
"""Depths that kinds tell apart."""
FIRST_KIND = KINDS - DEPTHS * (len(CHANCES) + 1)
"""Kinds from here on: apart from those of drafts that it extends."""


class RecyclingDrafter(Drafter):
    """Builds trees from the largest logits of earlier rows, rejected nodes included.

    Every verified row names the `WIDTH` likeliest successors of the one, two and three tokens before it; a prompt names
    those that followed in it, the latest first. What else the last two rows ranked high is likely to come next, too.
    The log-odds of a token's rank in each of these lists are added up, which estimates the chance of every node; a tree
    holds the nodes that survive most often. Where the target draws under noise that is known (`DraftRequest.noise`),
    that of a token is one more of its log-odds. Where no text has shown a token yet, what the target says after that
    token alone takes its place (`first_rows`), so that no draft comes from a row that was never written.

    Sources: Luo et al. 2024 (arXiv 2408.08696), token recycling: rows of single tokens, and a fixed tree. LogitSpec
    (arXiv 2507.01449): the last row ranks the token after the next. Longer contexts, first rows, the noise, and the sum
    of log-odds are ours; experiments/recycling.py measures what each of them gives, and fits the log-odds (`odds`).

    Rows of refused nodes depend on what was drafted before: a request that lost its place, or found its prompt cached,
    has seen others. So drafts are no function of the committed tokens, even where a request has a table of its own, and
    only rules whose text does not depend on the draft may judge them.

    Args:
        num_draft_tokens: γ, the longest branch.
        max_nodes: most tokens of a draft.
        floor: a node is drafted only if the chance that it and those above it are accepted is at least so large.
        contexts: contexts that are kept, a power of two, of 64 bytes each; of four that share a place, the one that was
            written longest ago makes room.
        shared: whether the table outlives requests: one table for all of a salt. If not, each has its own.
        first: whether to find out before the first request what the target says after every token alone: V rows, kept
            on disk, and 32 bytes a token in memory. None: take those that ship where the target has their tokenizer;
            elsewhere find out where that takes no more than about two minutes.

    Raises:
        ConfigError: for a value that cannot work.
    """

    name = "recycling"
    shares = True
    extends = True

    def __init__(
        self,
        num_draft_tokens: int = 8,
        max_nodes: int = 12,
        floor: float = 0.03,
        contexts: int = 1 << 17,
        shared: bool = True,
        first: bool | None = None,
    ) -> None:
        super().__init__(num_draft_tokens)
        self._nodes: int = take("max_nodes", max_nodes, NODES)
        self._floor: float = take("floor", floor, FLOOR)
        self._contexts = take("contexts", contexts, whole(1 << CONTEXTS[0], 1 << CONTEXTS[1]))
        if self._contexts & (self._contexts - 1):
            raise ConfigError(f"contexts = {contexts} cannot work. Give a power of two, such as {1 << 17}.")
        self.outlives: bool = take("shared", shared, flag())
        self._first = take("first", first, flag().or_none(" for where it is cheap"))
        self._table: Table | None = None
        self._texts: dict[int, _Text] = {}

    @property
    def trees(self) -> bool:
        """See `Drafter.trees`."""
        return self._nodes > 1

    def max_nodes(self, max_depth: int) -> int:
        """See `Drafter.max_nodes`: the same for every depth."""
        return self._nodes

    def bind(self, target: TargetHandle) -> Needs:
        """Makes the table.

        Raises:
            ConfigError: if the vocabulary is larger than a context can name.
        """
        size = target.model.vocab_size
        if size > 1 << TOKEN_BITS:
            raise ConfigError(
                f"drafter 'recycling' serves vocabularies of at most {1 << TOKEN_BITS} tokens, and {target.model.name} "
                f"has {size}. Use another drafter."
            )
        self._table = make(self._contexts, size, odds.RANKS, odds.LENGTHS, odds.NOISE, self._first_rows(target))
        return Needs(top=WIDTH)

    def _first_rows(self, target: TargetHandle) -> npt.NDArray[np.int32] | None:
        size = target.model.vocab_size
        if self._first is None:
            shipped = shipped_rows(Vocabulary.of_tokenizer(size, target.tokenizer), WIDTH)
            if shipped is not None:
                return shipped
        wanted = is_cheap(target.model) if self._first is None else self._first
        start = getattr(target.tokenizer, "bos_token_id", None) or 0
        return first_rows(target.model, start, min(WIDTH, size)) if wanted else None

    def memory(self) -> int:
        """See `Drafter.memory`."""
        return 0 if self._table is None else self._table.nbytes

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The likeliest nodes for each request."""
        return [self._grown(request, DraftTree()) for request in requests]

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """See `Drafter.extend`; a draft gains at most as many nodes as one of this drafter's own has."""
        return [self._grown(request, tree) for request, tree in zip(requests, trees, strict=True)]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Takes the successors that the rows of a pass name."""
        for one in outcomes:
            text = self._texts.setdefault(one.request_id, _Text())
            text.run(one.start, one.tail)
            if one.top is None:
                continue
            top = one.top.numpy()
            if text.scope is None:
                text.waiting = _Pass(text.last, one.tree, one.path, top)
            else:
                self._learn(text.scope, one.request_id, _Pass(text.last, one.tree, one.path, top))
            gave = (ROOT, *one.path)[: len(one.tokens)]
            text.add(one.tokens, [top[node + 1].tolist() for node in gave[-PREVIOUS:]])

    def forget(self, request_id: int) -> None:
        """The request starts anew; what its text has shown stays true."""
        if request_id in self._texts:
            self._texts[request_id].restart()

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Drops the request's state; its table, too, if it has one of its own."""
        text = self._texts.pop(request_id, None)
        if text is not None and text.scope is not None and text.scope & PRIVATE:
            self._known.forget(text.scope)

    def _learn(self, scope: int, request_id: int, one: _Pass) -> None:
        self._known.learn(scope, request_id, one.last, one.tree.tokens, one.tree.parents, one.path, one.top)

    @property
    def _known(self) -> Table:
        assert self._table is not None, "the drafter is not bound to a target"
        return self._table

    def _grown(self, request: DraftRequest, tree: DraftTree) -> DraftTree:
        text = self._texts.setdefault(request.request_id, _Text())
        if text.scope is None:
            text.scope = self._scope(request)
            self._known.read(text.scope, request.request_id, request.tokens, 0)
            if text.waiting is not None:
                self._learn(text.scope, request.request_id, text.waiting)
                text.waiting = None
        text.reach(request.tokens)
        chances = tree.chances or (GUESS,) * len(tree)
        tokens, parents, chances_of = self._known.grow(
            text.scope, request.request_id, text.last, text.previous, tree.tokens, tree.parents, chances,
            len(tree) + self._nodes, min(self.num_draft_tokens, request.max_depth),
            max(self._floor, request.floor), _heard(request),
        )  # fmt: skip
        kinds = (*tree.node_kinds, *_kinds(parents, chances_of)[len(tree) :])
        return DraftTree(tuple(tokens), tuple(parents), None, kinds, tuple(chances_of))

    def _scope(self, request: DraftRequest) -> int:
        """Whose table a request uses: that of its salt, or one of its own."""
        if not (self.outlives and request.store):
            return PRIVATE | request.request_id
        digest = blake2b(request.salt.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") & (PRIVATE - 1) if request.salt else 0


def _heard(request: DraftRequest) -> Heard | None:
    noise = request.noise
    return None if noise is None else Heard(noise.params.temperature, noise.random, noise.position)


@dataclass(frozen=True)
class _Pass:
    """The tokens before a draft, the draft, what was kept of it, and its rows."""

    last: list[int]
    tree: DraftTree
    path: tuple[int, ...]
    top: npt.NDArray[np.int32]


@dataclass
class _Text:
    """What is known of one request's text."""

    scope: int | None = None
    """Where its rows are kept; not known before it first asks for a draft."""
    last: list[int] = field(default_factory=list)
    """At most the last `ORDER` tokens."""
    previous: list[list[int]] = field(default_factory=list)
    """What else the rows that gave the last tokens ranked high, the last row's first."""
    waiting: _Pass | None = None
    """The last pass before the scope was known."""
    _length: int = 0

    def run(self, start: int, tail: Sequence[int]) -> None:
        """These committed tokens ran; the first of them may be known, and what lies before them may not be."""
        if start > self._length:
            self.restart()
            self._length = start
        self._append(tail[self._length - start :])

    def add(self, tokens: Sequence[int], rows: Sequence[list[int]]) -> None:
        """The pass added these tokens; the rows are those that gave the last of them."""
        self._append(tokens)
        for token, row in zip(tokens[-len(rows) :], rows, strict=True):
            self.previous = [[other for other in row if other != token][: WIDTH - 1], *self.previous][:PREVIOUS]

    def reach(self, tokens: Sequence[int]) -> None:
        """These are all tokens."""
        self.last, self._length = list(tokens[-ORDER:]), len(tokens)

    def restart(self) -> None:
        """Nothing has run. What the last rows said is still true of the last tokens."""
        self.last, self._length = [], 0

    def _append(self, tokens: Sequence[int]) -> None:
        self.last = [*self.last, *tokens[-ORDER:]][-ORDER:]
        self._length += len(tokens)


def _kinds(parents: Sequence[int], chances: Sequence[float]) -> list[int]:
    """Nodes of one depth whose chances are alike are of one kind."""
    depths: list[int] = []
    kinds: list[int] = []
    for parent, chance in zip(parents, chances, strict=True):
        depth = 0 if parent == ROOT else depths[parent] + 1
        depths.append(depth)
        kinds.append(FIRST_KIND + min(depth, DEPTHS - 1) * (len(CHANCES) + 1) + bisect(CHANCES, chance))
    return kinds
