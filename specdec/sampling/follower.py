"""Where a grammar's matcher stands: behind the committed tokens, or somewhere on a draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from specdec.errors import InvalidRequestError
from specdec.foreign import LONGEST

T = TypeVar("T")


REFUEL = 16
"""Committed tokens after which a matcher is asked for a mask, as long as it meets no limit; then after each token. A
lexer may do so much work from one mask to the next. Where that is not enough, tokens look as if they did not fit."""


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
        self._refuel = REFUEL

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

    def advance(self, token: int) -> None:
        """Takes one committed token.

        Raises:
            InvalidRequestError: if it may not follow.
        """
        self.ask((token,), lambda matcher: None)
        self._committed.append(token)
        self._path = ()
        if len(self._committed) % self._refuel == 0:
            self.ask((), lambda matcher: matcher.compute_bitmask())

    def fork(self) -> Follower:
        """Another one in the same state; the two go on apart."""
        if self._path:
            self.ask((), lambda matcher: None)
        other = Follower(self._origin)
        other._matcher, other._refuel = self._matcher.deep_copy(), self._refuel
        other._committed = list(self._committed)
        return other

    def _asked(self, path: tuple[int, ...], question: Callable[[Any], T]) -> T:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._path, path, strict=False)))
        if common < len(self._path):
            self._matcher.rollback(len(self._path) - common)
        for token in path[common:]:
            self._matcher.consume_token(token)
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


def count_valid(matcher: Any, tokens: Sequence[int]) -> int:
    """How many of some tokens may follow one after the other. A lexer that stops looks like a refusal, and only a mask
    notices."""
    count: int = matcher.validate_tokens(list(tokens))
    if count < len(tokens):
        matcher.compute_bitmask()
    return count


def may_follow(matcher: Any, token: int) -> bool:
    """Whether a token may come next, however text is spelt."""
    return count_valid(matcher, [token]) == 1


def next_as_spelt(matcher: Any, token: int) -> bool:
    """Whether a token may come next, if forced text is spelt in one way. A lexer that stops looks as if no text were
    forced. A matcher that takes a token notices."""
    if run := forced_tokens(matcher):
        return token == run[0]
    if not may_follow(matcher, token):
        return False
    other = matcher.deep_copy()
    other.consume_token(token)
    if other.is_error():
        matcher.compute_bitmask()
    return True


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
