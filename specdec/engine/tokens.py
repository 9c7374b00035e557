"""A request's tokens as drafters see them: not copied, and not to be written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload


class TokenView(Sequence[int]):
    """The committed tokens of a request. It grows with the text; slices are tuples, and stay as they are.

    Args:
        tokens: the request's own list.
    """

    __slots__ = ("_tokens",)

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...

    def __getitem__(self, at: int | slice) -> int | tuple[int, ...]:
        found = self._tokens[at]
        return tuple(found) if isinstance(found, list) else found

    def __iter__(self) -> Iterator[int]:
        return iter(self._tokens)

    def __repr__(self) -> str:
        return f"TokenView({self._tokens})"
