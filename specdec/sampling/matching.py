"""Grammars at work: the constraint of a request whose text keeps to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.sampling.constraints import Constraint, paths_of
from specdec.sampling.follower import Follower, forced_tokens, next_as_spelt
from specdec.sampling.guesses import MOST_CHOICES, guesses
from specdec.sampling.spelling import Vocabulary

MOST_FORCED = 64
"""Tokens of a forced run; a grammar may force one without an end."""
MOST_PLACES = 1024
"""Paths of which it is kept for the next question what follows: masks, at V bytes each."""


@dataclass(slots=True)
class _Place:
    """What is known of what follows a path.

    Args:
        row: its mask; not to be written to.
        free: what `GrammarConstraint.free` found.
        run: tokens that alone may come next, where some do; known if the spelling is canonical.
    """

    row: NDArray[np.bool_] | None = None
    free: bool | None = None
    run: Sequence[int] = ()


class GrammarConstraint(Constraint):
    """A text keeps to a grammar. Made by `specdec.sampling.compiling.GrammarCompiler`.

    What it allows is a function of the tokens alone, so no mask is worked out twice: those of drafted tokens stay when
    they are committed.

    Args:
        vocabulary: what tokens say.
        follower: of a matcher that allows every spelling, or one where text is forced.
        canonical: whether forced text is spelt as its tokenizer spells it.
    """

    def __init__(self, vocabulary: Vocabulary, follower: Follower, canonical: bool = False) -> None:
        self.vocabulary, self._follower, self.canonical = vocabulary, follower, canonical
        self._places: dict[tuple[int, ...], _Place] = {}
        """Paths that were asked for, from the committed tokens on."""
        self._ended = False

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """See `Constraint.masks`.

        Raises:
            SpecdecError: if the grammar is too complex to go on.
        """
        if len(self._places) > MOST_PLACES:
            self._places.clear()
        return torch.from_numpy(np.stack([self._row(path) for path in paths_of(tokens, parents)]))

    def allows(self, path: Sequence[int], token: int) -> bool:
        """See `Constraint.allows`. One token takes much less than all of them, unless it may not follow."""
        path = tuple(path)
        return (self._place(path).row is None and self._fits(path, (token,)) == 1) or bool(self._row(path)[token])

    def allowed_after(self, path: Sequence[int]) -> Tensor:
        """See `Constraint.allowed_after`."""
        return torch.from_numpy(self._row(tuple(path)))

    def kept(self, tokens: Sequence[int]) -> int:
        """See `Constraint.kept`. A lexer that stops looks like a refusal, which a mask alone tells apart. Whoever is
        refused needs the mask next."""
        tokens, kept = tuple(tokens), 0
        while (kept := kept + self._fits(tokens[:kept], tokens[kept:])) < len(tokens):
            if not self._known(tokens[:kept])[tokens[kept]]:
                break
            kept += 1
        return kept

    def draftable(self, tokens: Sequence[int]) -> int:
        """See `Constraint.draftable`. It takes no mask, unless a text may end."""
        tokens = tuple(tokens)
        fit = self._fits((), tokens)
        ends = fit < len(tokens) and tokens[fit] in self.vocabulary.ends
        return fit + (ends and bool(self._known(tokens[:fit])[tokens[fit]]))

    def advance(self, token: int) -> None:
        """See `Constraint.advance`."""
        if self._ended:
            return
        if token in self.vocabulary.ends:
            self._ended = True
        else:
            self._follower.advance(token)
        self._places = {path[1:]: place for path, place in self._places.items() if path[:1] == (token,)}

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """See `Constraint.forced`: the tokens that the tokenizer makes of forced text. Unless the spelling is canonical
        others may spell it too, so that they are a good guess and no more. An end token that alone may follow is one
        of them."""
        run: list[int] = []
        if path and self.kept(path) < len(path):
            return run
        while len(run) < MOST_FORCED and (more := self._forced_after((*path, *run))):
            run += more
        return run[:MOST_FORCED]

    def likely(self, depth: int, nodes: int) -> list[list[int]]:
        """See `Constraint.likely`: forced text, and the few texts between which there is a choice then."""
        return guesses(self, depth, nodes)

    def forced_text(self, path: Sequence[int]) -> bytes:
        """Bytes that must follow a path that is allowed."""
        if self._over(tuple(path)):
            return b""
        return bytes(self._follower.ask(path, lambda matcher: matcher.compute_ff_bytes()))

    def valid(self, path: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of some tokens probably follow a path one after the other, however they spell it. A guess: a lexer
        that stops looks like a refusal."""
        if self._over(tuple(path)):
            return len(tokens)
        return self._follower.ask(path, lambda matcher: int(matcher.validate_tokens(list(tokens))))

    def free(self, path: Sequence[int]) -> bool:
        """Whether more may follow a path than is worth drafting, as within a string, where a mask takes longest: each
        of many letters may."""
        place, letters = self._place(path := tuple(path)), self.vocabulary.usual
        if place.free is None:
            reached = len(letters) > MOST_CHOICES and not self._over(path) and self.valid((), path) == len(path)
            place.free = reached and self._follower.ask(
                path, lambda matcher: all(matcher.validate_tokens([letter]) for letter in letters)
            )
        return place.free

    def fork(self) -> GrammarConstraint:
        """See `Constraint.fork`."""
        other = GrammarConstraint(self.vocabulary, self._follower.fork(), self.canonical)
        other._places = {path: replace(place) for path, place in self._places.items()}
        other._ended = self._ended
        return other

    def _place(self, path: tuple[int, ...]) -> _Place:
        return self._places.setdefault(path, _Place())

    def _fits(self, path: tuple[int, ...], tokens: Sequence[int]) -> int:
        """How many of some tokens surely follow a path that is allowed, as far as one look tells."""
        if self._over(path):
            return len(tokens)
        if not self.canonical:
            return self.valid(path, list(takewhile(self.vocabulary.is_text, tokens)))
        fit = 0
        while fit < len(tokens) and self._next_as_spelt(path, tokens[fit]):
            path, fit = (*path, tokens[fit]), fit + 1
        return fit

    def _next_as_spelt(self, path: tuple[int, ...], token: int) -> bool:
        if self._over(path):
            return True
        place = self._place(path)
        if not place.run and self.vocabulary.is_text(token):
            fits, place.run = self._follower.ask(path, lambda matcher: next_as_spelt(matcher, token))
            return fits
        return token in place.run[:1]

    def _row(self, path: tuple[int, ...]) -> NDArray[np.bool_]:
        if path and not self._over(path) and self._place(path).row is None:
            above = self._place(path[:-1]).row
            if not (self.kept(path) == len(path) if above is None else above[path[-1]]):
                return self.vocabulary.nothing
        return self._known(path)

    def _known(self, path: tuple[int, ...]) -> NDArray[np.bool_]:
        """What may follow a path that is allowed."""
        if self._over(path):
            return self.vocabulary.everything
        if (row := self._place(path).row) is None:
            row = self._place(path).row = self._read(path)
        return row

    def _over(self, path: tuple[int, ...]) -> bool:
        return self._ended or not self.vocabulary.ends.isdisjoint(path)

    def _read(self, path: tuple[int, ...]) -> NDArray[np.bool_]:
        """What the matcher allows after a path that it allows."""
        usable = self.vocabulary.usable
        packed = np.frombuffer(self._follower.mask(path), dtype=np.uint8, count=len(usable))
        return np.unpackbits(packed & usable, count=self.vocabulary.size, bitorder="little").view(np.bool_)

    def _forced_after(self, path: tuple[int, ...]) -> list[int]:
        """Tokens that follow a path that is allowed, as far as one look tells."""
        if self._over(path):
            return []
        if run := self._follower.ask(path, forced_tokens):
            return run[: self.valid(path, run)]
        if self.free(path) or np.count_nonzero(row := self._row(path)) != 1:
            return []
        return [int(row.argmax())]
