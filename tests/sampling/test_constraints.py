"""Lists of choices, by hand: what may follow, what must, and what is refused. Their laws: tests/engine."""

from __future__ import annotations

import pytest

from specdec.errors import ConfigError
from specdec.sampling import Choices

A, B, C, END, STOP = range(5)
TEXTS = [[A], [A, B], [B, A], [B, C], [C, C, C], [C, C, C, A]]


def choices(*written: int) -> Choices:
    made = Choices(TEXTS, [END, STOP], 5)
    for token in written:
        made.advance(token)
    return made


@pytest.mark.parametrize(
    ("text", "following", "forced"),
    [
        ((), {A, B, C}, []),
        ((A,), {B, END, STOP}, []),
        ((B,), {A, C}, []),
        ((C,), {C}, [C, C]),
        ((C, C), {C}, [C]),
        ((C, C, C), {A, END, STOP}, []),
        ((B, C), {END, STOP}, []),
        ((A, END), {A, B, C, END, STOP}, []),
        ((A, STOP, B), {A, B, C, END, STOP}, []),
        ((A, C), set(), []),
        ((B, B), set(), []),
    ],
)
def test_what_follows_a_text(text: tuple[int, ...], following: set[int], forced: list[int]) -> None:
    """Whether it is committed, drafted, or one after the other."""
    for written in range(len(text) + 1):
        made, path = choices(*text[:written]), text[written:]
        masks = made.masks(path, range(-1, len(path) - 1))
        assert masks.shape == (len(path) + 1, 5)
        assert set(masks[-1].nonzero().flatten().tolist()) == following
        assert made.forced(path) == forced
        assert made.sole(path) == (min(following) if len(following) == 1 else None)


def test_a_run_stops_before_the_only_end() -> None:
    """The target takes the end token itself."""
    assert Choices([[A, B]], [END], 5).forced() == [A, B]
    assert Choices([[A, B]], [END], 5).forced([A, B]) == []
    assert Choices([[A, B]], [END], 4).forced([A, B, END]) == []


def test_everything_may_follow_an_end_token_even_if_that_is_one_token() -> None:
    assert Choices([[0]], [0], 1).masks([0], [-1]).tolist() == [[True], [True]]


def test_nodes_follow_their_own_parents() -> None:
    tokens, parents = (B, C, A, C, C), (-1, -1, 0, 1, 3)
    rows = choices().masks(tokens, parents)
    assert [set(row.nonzero().flatten().tolist()) for row in rows] == [
        {A, B, C}, {A, C}, {C}, {END, STOP}, {C}, {A, END, STOP},
    ]  # fmt: skip


def test_forks_go_on_apart() -> None:
    first = choices(C)
    second = first.fork()
    second.advance(C)
    assert (first.forced(), second.forced()) == ([C, C], [C])
    first.advance(C)
    first.advance(C)
    assert second.forced() == [C]


@pytest.mark.parametrize(
    ("texts", "end", "message"),
    [
        ([], [END], "at least one text"),
        ([[]], [END], "no empty ones"),
        ([[A], []], [END], "no empty ones"),
        ([[A]], [], "at least one end token"),
        ([[A, 5]], [END], r"Token id 5 in choices: give ids in \[0, 5\)"),
        ([[A]], [END, 5], "Token id 5"),
        ([[B], [-1]], [END], "Token id -1"),
        ([[B]], [-1], "Token id -1"),
    ],
)
def test_what_is_no_list_of_choices_is_refused(texts: list[list[int]], end: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choices(texts, end, 5)
    Choices([[A, 4]], [END], 5)
