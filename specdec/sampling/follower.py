"""Where a grammar's matcher stands: behind the committed tokens, or somewhere on a draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from specdec.errors import InvalidRequestError
from specdec.foreign import LONGEST

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
    """One matcher for the committed tokens and all drafts: it goes down a path and is taken back.

    What ends a request is its own text. Not the looks at drafts, which plain decoding does not take, nor other requests
    with the same grammar. So a question at which the lexer stops is asked once more, of a new one that has read the
    committed tokens and nothing else.

    Args:
        origin: of the grammar.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin, self._matcher = origin, origin.copy()
        self._committed: list[int] = []
        self._path: tuple[int, ...] = ()
        """Where the matcher stands, from the committed tokens on."""
        self._refuel, self._unmasked = REFUEL, 0

    def ask(self, path: Sequence[int], question: Callable[[Any], T]) -> T:
        """What the matcher says after a path that is allowed.

        Raises:
            InvalidRequestError: if it meets a limit, a dead end, or a token that may not follow.
        """
        try:
            return self._asked(tuple(path), question)
        except InvalidRequestError:
            self._renew()
        try:
            return self._asked(tuple(path), question)
        except InvalidRequestError:
            self._renew()
            raise

    def mask(self, path: Sequence[int]) -> bytes:
        """What may come after a path that is allowed, as `ask`: bit t % 8 of byte t // 8."""
        found: bytes = self.ask(path, lambda matcher: matcher.compute_bitmask())
        self._unmasked = 0
        return found

    def advance(self, token: int) -> None:
        """Takes one committed token.

        Raises:
            InvalidRequestError: if it may not follow.
        """
        if self._path[:1] != (token,):  # else it stands behind the token, and the draft may go on to be right
            self.ask((token,), lambda matcher: None)
        self._committed.append(token)
        self._path = self._path[1:]
        self._unmasked += 1
        if self._unmasked >= self._refuel:
            self.mask(())

    def fork(self) -> Follower:
        """Another one in the same state; the two go on apart."""
        if self._path:
            self.ask((), lambda matcher: None)
        other = Follower(self._origin)
        other._matcher = self._matcher.deep_copy()
        other._refuel, other._unmasked = self._refuel, self._unmasked
        other._committed = list(self._committed)
        return other

    def _asked(self, path: tuple[int, ...], question: Callable[[Any], T]) -> T:
        if path != self._path:
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._path, path, strict=False)))
            if common < len(self._path):
                self._matcher.rollback(len(self._path) - common)
            if common < len(path):
                self._matcher.consume_tokens(list(path[common:]))
            self._path = path
        answer = question(self._matcher)
        check_matcher(self._matcher)
        return answer

    def _renew(self) -> None:
        self._origin.renew()
        self._matcher, self._path, self._refuel = self._origin.copy(), (), 1
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
