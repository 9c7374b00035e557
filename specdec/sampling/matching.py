"""Grammars at work: the constraint of a request whose text keeps to one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.sampling.constraints import Constraint
from specdec.sampling.follower import Follower, forced_tokens, next_as_spelt
from specdec.sampling.guesses import MOST_CHOICES, guesses
from specdec.sampling.places import Place
from specdec.sampling.spelling import Vocabulary

MOST_FORCED = 64
"""Tokens of a forced run; a grammar may force one without an end."""
MOST_PLACES = 1024
"""Places of which it is kept what follows: masks, at V bytes each."""


class GrammarConstraint(Constraint):
    """A text keeps to a grammar. Made by `specdec.sampling.compiling.GrammarCompiler`.

    Args:
        vocabulary: what tokens say.
        follower: of a matcher that allows every spelling, or one where text is forced.
        canonical: whether forced text is spelt as its tokenizer spells it.
    """

    def __init__(self, vocabulary: Vocabulary, follower: Follower, canonical: bool = False) -> None:
        self.vocabulary, self._follower, self.canonical = vocabulary, follower, canonical
        self._places = 0
        """That were made since all of them were forgotten."""

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """See `Constraint.masks`.

        Raises:
            SpecdecError: if the grammar is too complex to go on.
        """
        places = [self._follower.root]
        for token, parent in zip(tokens, parents, strict=True):
            places.append(self._below(places[parent + 1], token))
        return torch.from_numpy(np.stack([self._row(place) for place in places]))

    def allows(self, path: Sequence[int], token: int) -> bool:
        """See `Constraint.allows`. One token takes much less than all of them, unless it may not follow."""
        place = self._at(path)
        return self._fitting(place, (token,)) is not place or bool(self._row(place)[token])

    def allowed_after(self, path: Sequence[int]) -> Tensor:
        """See `Constraint.allowed_after`."""
        return torch.from_numpy(self._row(self._at(path)))

    def sole(self, path: Sequence[int]) -> int | None:
        """See `Constraint.sole`: text that is forced, if it is spelt in one way."""
        run = self._at(path).run
        return run[0] if run and self.canonical else None

    def kept(self, tokens: Sequence[int]) -> int:
        """See `Constraint.kept`. Unless another token is forced, a lexer that stops looks like a refusal, which a mask
        alone tells apart. Whoever is refused needs the mask next."""
        root = self._follower.root
        place = self._fitting(root, tokens)
        while (kept := place.depth - root.depth) < len(tokens) and self._allowed(place, tokens[kept]):
            place = self._fitting(place, tokens[kept:])
        return kept

    def draftable(self, tokens: Sequence[int]) -> int:
        """See `Constraint.draftable`. It takes no mask, unless a text may end: there it stops."""
        root, ends = self._follower.root, self.vocabulary.ends
        words = list(takewhile(lambda token: token not in ends, tokens))
        place = self._fitting(root, words)
        fit = place.depth - root.depth
        return fit + (fit == len(words) < len(tokens) and bool(self._known(place)[tokens[fit]]))

    def advance(self, token: int) -> None:
        """See `Constraint.advance`."""
        if not self._follower.root.over:
            self._follower.advance(self._below(self._follower.root, token))
        if self._places > MOST_PLACES:
            self._follower.root.below.clear()
            self._places = 0

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """See `Constraint.forced`: the tokens that the tokenizer makes of forced text. Unless the spelling is canonical
        others may spell it too, so that they are a good guess and no more. An end token that alone may follow is one
        of them."""
        run = list[int]()
        if path and self.kept(path) < len(path):
            return run
        place = self._at(path)
        while len(run) < MOST_FORCED and (more := self._forced_at(place)):
            run += more
            place = self._at(more, place)
        return run[:MOST_FORCED]

    def likely(self, depth: int, nodes: int) -> list[list[int]]:
        """See `Constraint.likely`: forced text, and the few texts between which there is a choice then."""
        return guesses(self, depth, nodes)

    def forced_text(self, path: Sequence[int]) -> bytes:
        """Bytes that must follow a path that is allowed."""
        place = self._at(path)
        return b"" if place.over else bytes(self._follower.ask(place, lambda matcher: matcher.compute_ff_bytes()))

    def valid(self, path: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of some tokens probably follow a path one after the other, however they spell it. A guess: a lexer
        that stops looks like a refusal."""
        return self._valid(self._at(path), tokens)

    def free(self, path: Sequence[int]) -> bool:
        """Whether more may follow a path than is worth drafting, as within a string, where a mask takes longest: each
        of many letters may."""
        place = self._fitting(self._follower.root, path)
        return place is self._at(path) and self._free(place)

    def fork(self) -> GrammarConstraint:
        """See `Constraint.fork`."""
        return GrammarConstraint(self.vocabulary, self._follower.fork(), self.canonical)

    def _at(self, path: Sequence[int], place: Place | None = None) -> Place:
        """The place behind a path from the committed tokens, or from another place."""
        place = place or self._follower.root
        for token in path:
            place = self._below(place, token)
        return place

    def _below(self, place: Place, token: int) -> Place:
        found = place.below.get(token)
        if found is None:
            found = place.below[token] = Place(place, token, place.over or token in self.vocabulary.ends)
            self._places += 1
        return found

    def _fitting(self, place: Place, tokens: Sequence[int]) -> Place:
        """Where as many of some tokens lead as surely follow a place that is allowed, as far as one look tells."""
        for at, token in enumerate(tokens):
            below = self._below(place, token)
            if not below.fits:
                self._look(place, tokens[at:])
            if not below.fits:
                break
            place = below
        return place

    def _allowed(self, place: Place, token: int) -> bool:
        """Whether a token may follow a place that is allowed."""
        if place.run and self.canonical:
            return token == place.run[0]
        return bool(self._known(place)[token])

    def _look(self, place: Place, tokens: Sequence[int]) -> None:
        """Marks those of some tokens that surely follow a place that is allowed: the first one at least, if it does."""
        if place.row is not None:
            self._below(place, tokens[0]).fits = bool(place.row[tokens[0]])
        elif self.canonical:
            self._below(place, tokens[0]).fits = self._next_as_spelt(place, tokens[0])
        else:
            texts = list(takewhile(self.vocabulary.is_text, tokens))
            for token in texts[: self._valid(place, texts)]:
                place = self._below(place, token)
                place.fits = True

    def _next_as_spelt(self, place: Place, token: int) -> bool:
        if not place.run and self.vocabulary.is_text(token):
            fits, place.run = self._follower.ask(place, lambda matcher: next_as_spelt(matcher, token))
            return fits
        return token in place.run[:1]

    def _valid(self, place: Place, tokens: Sequence[int]) -> int:
        if place.over:
            return len(tokens)
        return self._follower.ask(place, lambda matcher: int(matcher.validate_tokens(list(tokens))))

    def _free(self, place: Place) -> bool:
        if place.free is None:
            letters = self.vocabulary.usual
            place.free = (
                len(letters) > MOST_CHOICES
                and not place.over
                and self._follower.ask(place, lambda matcher: all(matcher.validate_tokens([one]) for one in letters))
            )
        return place.free

    def _row(self, place: Place) -> NDArray[np.bool_]:
        """What may follow; nothing, if the place is not allowed."""
        if place.above is not None and not place.fits and not place.over:
            path = place.path()
            if self.kept(path) < len(path):
                return self.vocabulary.nothing
        return self._known(place)

    def _known(self, place: Place) -> NDArray[np.bool_]:
        """What may follow a place that is allowed."""
        if place.over:
            return self.vocabulary.everything
        if place.row is None:
            usable = self.vocabulary.usable
            packed = np.frombuffer(self._follower.mask(place), dtype=np.uint8, count=len(usable))
            place.row = np.unpackbits(packed & usable, count=self.vocabulary.size, bitorder="little").view(np.bool_)
        return place.row

    def _forced_at(self, place: Place) -> Sequence[int]:
        """Tokens that alone may follow a place that is allowed, as far as one look tells."""
        if place.over:
            return ()
        place.run = place.run or self._follower.ask(place, forced_tokens)
        if place.run:
            return place.run[: self._valid(place, place.run)]
        if self._free(place) or np.count_nonzero(row := self._known(place)) != 1:
            return ()
        return (int(row.argmax()),)
