"""What a request's text must keep to: a grammar, a list of choices, or anything that can say which token may follow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import torch
from torch import Tensor

from specdec.errors import ConfigError


class Constraint(ABC):
    """Says, after the committed tokens and along a draft tree, which tokens may come next.

    `SamplingParams(constraint=…)` holds one that has seen no token; every request works on a fork of it. Target and
    drafter share the fork: what it forbids has probability zero under p, and under the q of a draft that was drawn
    through `DraftRequest.draw`. A complete text allows the end tokens, so that some token may follow every text that
    keeps to the constraint; after an end token everything may.
    """

    @abstractmethod
    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Which tokens may follow the committed ones and each node of a draft tree.

        Args:
            tokens, parents: of the tree's N nodes; -1 is the parent of those that follow the committed tokens.

        Returns:
            bool [N + 1, V]: row 0 after the committed tokens, row n + 1 after node n. Rows below a token that may not
            stand where it does are never read.
        """

    def allows(self, path: Sequence[int], token: int) -> bool:
        """Whether a token may follow the committed ones and a path of allowed tokens: what `masks` says, where one
        token is asked for and a whole mask would take long."""
        return bool(self.allowed_after(path)[token])

    def allowed_after(self, path: Sequence[int]) -> Tensor:
        """bool [V]: which tokens may follow the committed ones and a path, as `masks` says; not to be written to."""
        return self.masks(path, range(-1, len(path) - 1))[-1]

    def sole(self, path: Sequence[int]) -> int | None:
        """The token that alone may follow the committed ones and a path, where that is known without a mask."""
        return None

    def kept(self, tokens: Sequence[int]) -> int:
        """How many of some tokens may follow the committed ones, one after the other."""
        return next((at for at in range(len(tokens)) if not self.allows(tokens[:at], tokens[at])), len(tokens))

    def draftable(self, tokens: Sequence[int]) -> int:
        """How many of some tokens are worth drafting, one after the other: those that are `kept`, or fewer."""
        return self.kept(tokens)

    @abstractmethod
    def advance(self, token: int) -> None:
        """Takes one committed token, which is one of those that may come next."""

    @abstractmethod
    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """The longest run of tokens each of which is the only one that may come next, after the committed tokens and
        `path`."""

    def likely(self, depth: int, nodes: int) -> list[list[int]]:
        """Chains of tokens one of which will probably come next, the likeliest first. They are guesses, to be drafted.

        Args:
            depth: tokens that a chain may have, 1 or more.
            nodes: tokens that all of them may have together, what they have in common once.
        """
        run = self.forced()[: min(depth, nodes)]
        return [run] if run else []

    @abstractmethod
    def fork(self) -> Constraint:
        """Another one in the same state; the two go on apart."""


class Choices(Constraint):
    """The text is one of a list.

    Args:
        texts: token ids of each choice, at least one token each.
        end: token ids that end a text, at least one; a complete choice is followed by one of them.
        vocab_size: V.

    Raises:
        ConfigError: if there is no choice, an empty one, no end token, or an id outside the vocabulary.
    """

    def __init__(self, texts: Iterable[Sequence[int]], end: Iterable[int], vocab_size: int) -> None:
        self._texts, self._end, self._vocab_size = [tuple(text) for text in texts], frozenset(end), vocab_size
        if not self._texts or not all(self._texts) or not self._end:
            raise ConfigError("Choices need at least one text, no empty ones, and at least one end token.")
        for token in (*self._end, *(token for text in self._texts for token in text)):
            if not 0 <= token < vocab_size:
                raise ConfigError(f"Token id {token} in choices: give ids in [0, {vocab_size}).")
        self._written: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Choices({len(self._texts)} texts, vocab_size={self._vocab_size})"

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """See `Constraint.masks`."""
        texts = paths_of(tokens, parents, self._written)
        allowed = torch.zeros(len(texts), self._vocab_size, dtype=torch.bool)
        for row, text in enumerate(texts):
            allowed[row, list(self._next(text))] = True
        return allowed

    def allows(self, path: Sequence[int], token: int) -> bool:
        """See `Constraint.allows`."""
        return token in self._next((*self._written, *path))

    def sole(self, path: Sequence[int]) -> int | None:
        """See `Constraint.sole`."""
        following = self._next((*self._written, *path))
        return next(iter(following)) if len(following) == 1 else None

    def advance(self, token: int) -> None:
        """See `Constraint.advance`."""
        self._written = (*self._written, token)

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """See `Constraint.forced`. It stops before the end token: which one is taken is the target's business."""
        text, run = (*self._written, *path), list[int]()
        while len(following := self._next((*text, *run))) == 1 and not following & self._end:
            run.extend(following)
        return run

    def fork(self) -> Choices:
        """See `Constraint.fork`."""
        other = Choices(self._texts, self._end, self._vocab_size)
        other._written = self._written
        return other

    def _next(self, text: tuple[int, ...]) -> frozenset[int]:
        if self._end.intersection(text):
            return frozenset(range(self._vocab_size))
        size = len(text)
        longer = {choice[size] for choice in self._texts if len(choice) > size and choice[:size] == text}
        return frozenset(longer | (self._end if text in self._texts else set()))


def paths_of(tokens: Sequence[int], parents: Sequence[int], before: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The tokens from the root of a draft tree down to each of its rows: none for the root, then those of each node.

    Args:
        tokens, parents: of the nodes; -1 is the root.
        before: with which all of them begin.
    """
    paths = [before]
    for token, parent in zip(tokens, parents, strict=True):
        paths.append((*paths[parent + 1], token))
    return paths


def allowed_rows(
    constraint: Constraint, paths: Sequence[Sequence[int]], parents: Sequence[int] | None = None
) -> Tensor:
    """bool [R, V]: which tokens may follow each path.

    Args:
        constraint: of the request.
        paths: R paths of draft tokens.
        parents: if they are those of a tree's rows, the row above each one, -1 for row 0.
    """
    if parents is not None:
        return constraint.masks([path[-1] for path in paths[1:]], [row - 1 for row in parents[1:]])
    return torch.stack([constraint.allowed_after(path) for path in paths])


def forbidden_nodes(constraint: Constraint, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
    """Nodes of a draft tree whose token is not allowed where it stands, as far as a look at drafts tells
    (`Constraint.draftable`), or that are below one."""
    forbidden: set[int] = set()
    for leaf in sorted(set(range(len(parents))).difference(parents)):
        path, node = deque[int](), leaf
        while node >= 0:
            path.appendleft(node)
            node = parents[node]
        words = [tokens[node] for node in takewhile(lambda node: node not in forbidden, path)]
        forbidden.update(islice(path, constraint.draftable(words), None))
    return sorted(forbidden)


def below_banned(scores: Tensor, paths: Sequence[Sequence[int]], parents: Sequence[int]) -> list[int]:
    """Rows that no text reaches: a token on their path has no mass where it stands."""
    rows: list[int] = []
    for row, (path, parent) in enumerate(zip(paths, parents, strict=True)):
        if parent >= 0 and (parent in rows or scores[parent, path[-1]] == -math.inf):
            rows.append(row)
    return rows
