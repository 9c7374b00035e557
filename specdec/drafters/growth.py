"""What drafters with a language model share: a tree that grows level by level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.drafters.base import DraftRequest
from specdec.drafters.stopping import Stop, SurvivalStop
from specdec.errors import NumericalError
from specdec.models.base import PassOutput
from specdec.models.batch import SequenceRows
from specdec.models.chains import ChainDraw, DrawnChain
from specdec.sampling import probabilities
from specdec.verify.tree import ROOT, DraftTree, TreeShape

Asked = TypeVar("Asked")


class TokenMap:
    """Which tokens of the target a drafting model with another tokenizer can say, and which of its own they are.

    Args:
        pairs: the target's id → the drafting model's; no id is there twice.
        device: where its logits are.
    """

    def __init__(self, pairs: Mapping[int, int], device: torch.device | str = "cpu") -> None:
        self._pairs = dict(pairs)
        self._back = {own: token for token, own in self._pairs.items()}
        self.ids = torch.tensor(list(self._pairs.keys()), dtype=torch.int64, device=device)
        """int64 [n], those of the target's tokens."""
        self._theirs = torch.tensor(list(self._pairs.values()), dtype=torch.int64, device=device)
        places = torch.arange(len(self._pairs), device=device)
        self.in_order = torch.equal(self._theirs, places) and bool((self.ids.diff() > 0).all())
        """Whether the drafting model numbers these tokens 0, 1, … in the order of the target's ids."""

    def read(self, tokens: Sequence[int]) -> list[int]:
        """Tokens of the target, as the drafting model reads them."""
        return [self._pairs[token] for token in tokens]

    def told(self, tokens: Sequence[int]) -> list[int]:
        """Tokens of the drafting model, as the target has them."""
        return [self._back[token] for token in tokens]

    def whole(self, size: int) -> bool:
        """Whether the target has all of the drafting model's tokens, so many."""
        return len(self._pairs) == size

    def logits(self, row: Tensor, vocab_size: int) -> Tensor:
        """The drafting model's logits at the target's tokens, -inf at those that it cannot say: their softmax is
        q(x) / q(tokens of both), and 0 elsewhere.

        Args:
            row: [V of the drafting model].
            vocab_size: V of the target.
        """
        logits = row.new_full((vocab_size,), -inf)
        logits[self.ids] = row[self._theirs]
        return logits


@dataclass(eq=False)
class GrowingTree:
    """A draft under construction, and the slots that its rows use.

    Args:
        request: who asks.
        shape: the tree that is wanted; a node that cannot be drawn is missing, with all below it.
        slots: int64 [committed + tail + nodes], slot of every token in storage order.
        committed: tokens that the drafting model has run and that are in its pool.
        tail: committed tokens that it has not run yet, the last one included. Their rows are the first of the draft;
            node n is row len(tail) + n.
        stop: ends branches before the shape does; None draws all of it.
        known: the tokens that both have, where the drafting model has another tokenizer. The tail is in its tokens
            then, the tree in the target's.
    """

    request: DraftRequest
    shape: TreeShape
    slots: Tensor
    committed: int
    tail: Sequence[int]
    stop: Stop | None = None
    known: TokenMap | None = None
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=lambda: {ROOT: ROOT})
    """Node of the shape → node of the tree."""
    num_run: int = 0
    """Nodes that the drafting model has run: those before the last level."""
    level: int = 0
    """Levels that have been drawn."""
    sureness: list[float] = field(default_factory=list)
    """What `stop` wants to know of each node."""
    ended: set[int] = field(default_factory=set)
    """Nodes of the last level below which nothing is drawn."""
    drawn: DrawnChain | None = None
    """What the model has drawn by itself."""

    @property
    def growing(self) -> bool:
        """Whether another level can be drawn."""
        left = len(self.tokens) - self.num_run - len(self.ended)
        return self.level < self.shape.depth and (self.level == 0 or left > 0)

    @property
    def by_argmax(self) -> bool:
        """Whether the maxima of the next pass are all that is asked of it."""
        whole = self.stop is None and self.known is None
        return whole and self.request.by_argmax and self.shape.widest == 1

    def chain(self, vocab_size: int) -> ChainDraw | None:
        """How a model of so many tokens draws it by itself, if it is a chain that takes no more than that."""
        size = self.request.transform.vocab_size
        alone = vocab_size == size if self.known is None else self.known.in_order
        if self.shape.widest != 1 or not alone or not isinstance(self.stop, SurvivalStop | None):
            return None
        draw = (
            ChainDraw.largest(self.shape.depth) if self.request.by_argmax else self.request.chain_draw(self.shape.depth)
        )
        stop = None if self.stop is None else self.stop.limit(self.request.request_id)
        return draw and replace(draw, stop=stop)

    @property
    def own_tokens(self) -> list[int]:
        """The nodes in the drafting model's tokens."""
        return self.tokens if self.known is None else self.known.read(self.tokens)

    @property
    def num_rows(self) -> int:
        """Rows of the next pass that have logits."""
        return len(self.tokens) - self.num_run if self.tokens else 1

    def rows(self) -> SequenceRows:
        """The rows of the next pass: the tail at first, then the last level's nodes."""
        tail = len(self.tail)
        if not self.tokens:
            return SequenceRows(self.tail, self.slots, self.committed, logit_rows=[tail - 1])
        parents = [*range(-1, tail - 1), *(tail + parent for parent in self.parents)]  # the root is row tail - 1
        level = self.own_tokens[self.num_run :]
        return SequenceRows(level, self.slots, self.committed, parents, tail + self.num_run, range(len(level)))

    def grow(self, output: PassOutput) -> None:
        """Draws the children of the rows that were just run.

        Args:
            output: logits of those rows, or their maxima alone in a chain of argmaxima.
        """
        nodes = range(self.num_run, len(self.tokens)) if self.tokens else [ROOT]
        shaped = {node: place for place, node in self.place.items()}
        partial = DraftTree(tuple(self.tokens), tuple(self.parents))
        self.num_run = len(self.tokens)
        for row, node in enumerate(nodes):
            wanted = self.shape.children(shaped[node])
            if not wanted or node in self.ended:
                continue
            lanes = range(len(self.tokens), len(self.tokens) + len(wanted))
            drawn, q = self._draw(output, row, partial.prefix(node), lanes)
            self._note(output, row, q, len(drawn))
            self.place.update(zip(wanted, lanes[: len(drawn)], strict=False))
            self.tokens.extend(drawn)
            self.parents.extend([node] * len(drawn))
            if q is not None and drawn:
                self.q.append(q)
        self.level += 1
        self._end_branches()

    def _note(self, output: PassOutput, row: int, q: Tensor | None, count: int) -> None:
        """How sure the law of `count` candidates was: q, or the softmax of the logits if the rule needs no q."""
        if self.stop is not None and output.logits is not None:
            law = probabilities(self._over_target(output.logits[row])) if q is None else q
            self.sureness += [self.stop.sureness(law)] * count

    def _end_branches(self) -> None:
        """Asks of each node that was just drawn whether its branch ends there."""
        self.ended = set()
        if self.stop is None:
            return
        drawn = DraftTree(tuple(self.tokens), tuple(self.parents))
        for node in range(self.num_run, len(self.tokens)):
            if self.stop.ends(self.request.request_id, [self.sureness[each] for each in drawn.path(node)]):
                self.ended.add(node)

    def _draw(
        self, output: PassOutput, row: int, prefix: Sequence[int], lanes: Sequence[int]
    ) -> tuple[list[int], Tensor | None]:
        """Candidates for one node, all of them the target's tokens, and q over the target's vocabulary."""
        transform = self.request.transform
        if output.logits is None:
            transform.require_mass(output.maxima.values[row : row + 1])
            token = output.maxima.tokens[row]
            return ([token] if token < transform.vocab_size else []), None
        own = output.logits[row]
        if self.known is not None and self.known.in_order and self.request.draws_among_some:
            return self.request.draw_among(own, self.known.ids, len(prefix), lanes)
        return self._over_known(own, lambda logits: self.request.draw(logits, prefix, lanes)) or ([], None)

    def _over_known(self, own: Tensor, ask: Callable[[Tensor], Asked]) -> Asked | None:
        """What a question to the logits over the target's tokens gives; None if all that may follow here are tokens
        that the drafting model does not know.

        Args:
            own: the drafting model's.
            ask: the question.
        """
        logits = self._over_target(own)
        try:
            return ask(logits)
        except NumericalError:
            if logits.isfinite().all() or not own.isfinite().all():
                raise
            return None

    def _over_target(self, logits: Tensor) -> Tensor:
        """Logits over the target's tokens: -inf at those that the drafting model cannot say."""
        size = self.request.transform.vocab_size
        if self.known is not None:
            return self.known.logits(logits, size)
        missing = size - len(logits)
        return pad(logits, (0, missing), value=-inf) if missing > 0 else logits[:size]

    def take(self, chain: DrawnChain) -> None:
        """A chain that the model has drawn by itself: all of the tree. Its last token has not been run."""
        self.drawn, self.tokens, self.sureness = chain, chain.tokens, chain.sureness
        self.parents, self.num_run = list(range(ROOT, len(chain.tokens) - 1)), max(len(chain.tokens) - 1, 0)
        self.level = self.shape.depth

    def tree(self) -> DraftTree:
        """The draft as it stands."""
        if self.drawn is not None:
            return DraftTree.chain(self.drawn.tokens, self.drawn.q)
        return DraftTree(tuple(self.tokens), tuple(self.parents), torch.stack(self.q) if self.q else None)
