"""What a grammar makes likely: the text that it forces, and the few texts between which it leaves the choice.

All of it is drafted, and verified like any draft: nothing here has to be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from specdec.sampling.spelling import END, Vocabulary

MOST_CHOICES = 8
"""Texts between which there is a choice; of more, one is hardly ever right."""
CONTEXT = 4
"""Tokens before a text that its own tokens may depend on."""


class Following(Protocol):
    """A constraint that can be asked about text, as `specdec.sampling.matching.GrammarConstraint`."""

    canonical: bool
    vocabulary: Vocabulary

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        """See `Constraint.forced`."""

    def free(self, path: Sequence[int]) -> bool:
        """Whether more may follow a path than is worth drafting."""

    def allowed_after(self, path: Sequence[int]) -> Tensor:
        """bool [V]: tokens that may follow a path."""

    def forced_text(self, path: Sequence[int]) -> bytes:
        """Bytes that must follow a path that is allowed."""

    def valid(self, path: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of some tokens may follow a path one after the other."""


def guesses(constraint: Following, depth: int, nodes: int) -> list[list[int]]:
    """Chains of tokens one of which will probably come next; see `Constraint.likely`. The forced run goes first; what
    room it leaves the choices behind it share."""
    run = constraint.forced()[: min(depth, nodes)]
    chains, left = [run] if run else [], nodes - len(run)
    if left and len(run) < depth:
        choices = list(_choices(constraint, run))[:left]
        share = min(depth - len(run), left // max(1, len(choices)))
        chains += [[*run, *choice[:share]] for choice in choices]
        left -= sum(len(choice[:share]) for choice in choices)
    if run and not constraint.canonical:
        chains += [other[: min(depth, left)] for other in _sign_by_sign(constraint.vocabulary, run) if left]
    return chains


def _sign_by_sign(vocabulary: Vocabulary, run: Sequence[int]) -> list[list[int]]:
    """The run with its first sign as a token of its own: a model may write `{`, `"` where its tokenizer writes `{"`."""
    piece = vocabulary.pieces[run[0]]
    if len(piece) < 2 or not piece.isascii() or any(chr(byte).isalnum() for byte in piece):
        return []
    first = vocabulary.byte(piece[0])
    rest = vocabulary.encode_behind([], vocabulary.said(run)[1:])
    return [] if first is None else [[first, *rest]]


def _choices(constraint: Following, run: Sequence[int]) -> Iterator[list[int]]:
    """Chains that may follow a run, if the grammar leaves a choice between a few texts there. Each of them goes on as
    far as its first byte forces it, but for a last token that may turn out longer."""
    vocabulary = constraint.vocabulary
    if constraint.free(run):
        return
    allowed = constraint.allowed_after(run).numpy()
    openings = vocabulary.openings(allowed, MOST_CHOICES)
    if len(openings) < 2:
        return
    for opening in openings:
        if opening == END:
            yield [next(end for end in sorted(vocabulary.ends) if allowed[end])]
        elif (byte := vocabulary.byte(opening)) is not None and constraint.valid(run, [byte]):
            text = bytes([opening]) + constraint.forced_text([*run, byte])
            tokens = vocabulary.encode_behind(run[-CONTEXT:], text)
            tokens = tokens[: constraint.valid(run, tokens)]
            yield tokens[:-1] if len(tokens) > 1 else tokens
