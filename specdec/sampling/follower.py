"""Where a grammar's matcher stands: behind the committed tokens, or somewhere on a draft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from specdec.errors import InvalidRequestError
from specdec.foreign import LONGEST
from specdec.sampling.places import Place, way

T = TypeVar("T")


REFUEL = 16
"""Committed tokens without a mask after which a matcher is asked for one, as long as it meets no limit; then after each
token. A lexer may do so much work from one mask to the next. Where that is not enough, tokens look as if they did not
fit."""


class Origin:
    """Matchers of one grammar before any token.

    Copies are quick. But they share one lexer with all that it has built, and when that stops at a limit it stops for
    all of them, whoever brought it there (`deep_copy` of llguidance 1.9 is shallow).

    Args:
        make: a new `llguidance.LLMatcher`, with a lexer of its own.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.renew()

    def copy(self) -> Any:
        """A matcher."""
        return self._matcher.deep_copy()

    def renew(self) -> None:
        """Gives those to come a new lexer."""
        self._matcher = self._make()
        check_matcher(self._matcher)


class Follower:
    """One matcher for the committed tokens and all drafts: it goes down a tree of places and is taken back.

    What ends a request is its own text. Not the looks at drafts, which plain decoding does not take, nor other requests
    with the same grammar. So a question at which the lexer stops is asked once more, of a new one that has read the
    committed tokens and nothing else.

    Args:
        origin: of the grammar.
    """

    def __init__(self, origin: Origin) -> None:
        self.root = Place()
        """Behind the committed tokens."""
        self._origin, self._matcher = origin, origin.copy()
        self._committed: list[int] = []
        self._place = self.root
        """Where the matcher stands."""
        self._refuel, self._unmasked = REFUEL, 0

    def ask(self, place: Place, question: Callable[[Any], T]) -> T:
        """What the matcher says at a place that is allowed.

        Raises:
            InvalidRequestError: if it meets a limit, a dead end, or a token that may not follow.
        """
        try:
            return self._asked(place, question)
        except InvalidRequestError:
            self._renew()
        try:
            return self._asked(place, question)
        except InvalidRequestError:
            self._renew()
            raise

    def mask(self, place: Place) -> bytes:
        """What may come at a place that is allowed, as `ask`: bit t % 8 of byte t // 8."""
        found: bytes = self.ask(place, lambda matcher: matcher.compute_bitmask())
        self._unmasked = 0
        return found

    def advance(self, place: Place) -> None:
        """Takes the committed token that leads to a place right below the root, which becomes the root.

        Raises:
            InvalidRequestError: if it may not follow.
        """
        if not place.over:
            self.ask(place, lambda matcher: None)
            self._committed.append(place.token)
        self.root, place.above = place, None
        self._unmasked += 1
        if self._unmasked >= self._refuel and not place.over:
            self.mask(place)

    def fork(self) -> Follower:
        """Another one in the same state; the two go on apart."""
        other = Follower(self._origin)
        other.root = other._place = self.root.twin()
        if not self.root.over:
            self.ask(self.root, lambda matcher: None)
            other._matcher = self._matcher.deep_copy()
        other._refuel, other._unmasked = self._refuel, self._unmasked
        other._committed = list(self._committed)
        return other

    def _asked(self, place: Place, question: Callable[[Any], T]) -> T:
        if place is not self._place:
            back, down = way(self._place, place)
            if back:
                self._matcher.rollback(back)
            if down:
                self._matcher.consume_tokens(down)
            self._place = place
        answer = question(self._matcher)
        check_matcher(self._matcher)
        return answer

    def _renew(self) -> None:
        self._origin.renew()
        self._matcher, self._place, self._refuel = self._origin.copy(), self.root, 1
        for token in self._committed:
            self._matcher.consume_token(token)
            self._matcher.compute_bitmask()


def next_as_spelt(matcher: Any, token: int) -> tuple[bool, list[int]]:
    """Whether a token surely comes next, if forced text is spelt in one way; and what is forced."""
    if run := forced_tokens(matcher):
        return token == run[0], run
    if not matcher.validate_tokens([token]):
        return False, run
    other = matcher.deep_copy()  # a lexer that stops looks as if no text were forced; a matcher that goes on notices
    other.consume_token(token)
    if other.is_error():
        matcher.compute_bitmask()
    return True, run


def forced_tokens(matcher: Any) -> list[int]:
    """Tokens of the text that alone can come next, as its tokenizer splits it."""
    run: list[int] = matcher.compute_ff_tokens() if matcher.compute_ff_bytes() else []
    return run


def check_matcher(matcher: Any) -> None:
    """Raises InvalidRequestError if a matcher has met a limit, a dead end, or a token that may not follow."""
    if matcher.is_error():
        words = " ".join(matcher.get_error().partition("<")[0].split())
        if "NoExtension" in words:
            raise InvalidRequestError(
                "The grammar has a dead end: no token of the vocabulary may come next. Correct it."
            )
        raise InvalidRequestError(f"The grammar fails: {words[:LONGEST].rstrip('. ')}. Make it simpler, or correct it.")
