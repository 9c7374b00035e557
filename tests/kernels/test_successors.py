"""The table of successors: native code against plain Python, and that against tables written by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from specdec.errors import SpecdecError
from specdec.kernels.cpu import library as native
from specdec.kernels.successors import (
    FIRST_ROWS,
    KEPT,
    ORDER,
    PREVIOUS,
    READ,
    REFUSED,
    SOURCES,
    WIDTH,
    Heard,
    Successors,
    make,
    reference,
)  # fmt: skip
from specdec.randomness import RandomSource
from tests.kernels.variants import every_architecture, kernels

Odds = tuple[Sequence[Sequence[float]], Sequence[float], tuple[float, float]]
"""By source and rank; by the length of the longest context that is known; by T g and T²."""
ONE: Odds = [[3.0 - rank for rank in range(WIDTH)] + [-1.0]] * SOURCES, [-2.0] * (ORDER + 1), (1.5, -0.75)
"""A better rank is always better, whatever the list."""


def random_odds(seed: int) -> Odds:
    draw = random.Random(seed)
    ranks = [[draw.gauss(0, 1) for _ in range(WIDTH + 1)] for _ in range(SOURCES)]
    return ranks, [draw.gauss(-1, 0.5) for _ in range(ORDER + 1)], (draw.gauss(1, 0.5), draw.gauss(-1, 0.5))


def table(contexts: int = 64, odds: Odds = ONE, first: Sequence[Sequence[int]] | None = None) -> reference.Table:
    return reference.Table(contexts // 4, *odds, first)


def successors(known: reference.Table, *context: int, scope: int = 0, owner: int = 0) -> dict[int, list[int]]:
    """Source → list, of every list that knows a context."""
    return dict(known.lists(scope, owner, context, [], PREVIOUS))


def source(length: int, origin: int, own: bool = True) -> int:
    return 6 * (length - 1) + 2 * origin + own


def test_a_text_says_what_followed_its_last_tokens_the_latest_first() -> None:
    known = table()
    known.read(0, 0, [1, 2, 3, 1, 2, 4, 2, 3], 0)
    assert successors(known, 2) == {source(1, READ): [3, 4]}
    assert successors(known, 1, 2) == {source(1, READ): [3, 4], source(2, READ): [4, 3]}
    assert successors(known, 9, 1, 2) == successors(known, 1, 2)
    assert successors(known, 3, 1, 2)[source(3, READ)] == [4]
    assert successors(known, 1, owner=1) == {source(1, READ, own=False): [2]}
    assert successors(known, 1, scope=1) == {}
    known.read(0, 0, [1, 2, 3, 9], 3)
    assert successors(known, 3)[source(1, READ)] == [9, 1]


def test_rows_of_a_draft_take_the_place_of_what_was_known_and_the_last_kept_one_wins() -> None:
    """The draft says 5 twice: once refused, once kept, above another 5 that is kept too."""
    known = table()
    known.read(0, 0, [7, 5, 6], 0)
    top = np.arange(4 * 8).reshape(4, 8) % 50
    known.learn(0, 0, [7], [5, 9, 5], [-1, -1, 1], [1], top)
    assert successors(known, 7)[source(1, KEPT)] == list(top[0])
    assert successors(known, 7, 5) == {source(1, REFUSED): list(top[3]), source(2, REFUSED): list(top[1])}
    assert successors(known, 7, 9) == {source(1, KEPT): list(top[2]), source(2, KEPT): list(top[2])}
    assert successors(known, 7, 9, 5)[source(3, REFUSED)] == list(top[3])
    known.learn(0, 0, [7], [5, 9, 5], [-1, 0, 1], [0, 1], top)
    assert successors(known, 5) == {source(1, KEPT): list(top[1])}  # the third row was refused
    known.learn(0, 0, [7], [5, 9, 5], [-1, 0, 1], [0, 1, 2], top)
    assert successors(known, 5) == {source(1, KEPT): list(top[3])}


def test_the_chance_of_a_token_is_the_sigmoid_of_the_sum_over_all_lists() -> None:
    known = table(first=[[8, 9]] * 50)
    known.read(0, 0, [1, 2, 3], 0)
    ranked = known.ranked(0, 0, [1, 2], [[8], [3, 4]], 0)
    lists = {3: (0, 0, None, None, 0), 8: (None, None, 0, 0, None), 9: (None, None, 1, None, None),
             4: (None, None, None, None, 1)}  # fmt: skip
    log_odds = {
        token: -2 + sum(-1.0 if rank is None else 3.0 - rank for rank in ranks) for token, ranks in lists.items()
    }
    chances = {token: 1 / (1 + math.exp(-score)) for token, score in log_odds.items()}
    total = max(1, sum(chances.values()))
    assert dict(ranked) == pytest.approx({token: chance / total for token, chance in chances.items()})
    assert [token for token, _ in ranked] == sorted(chances, key=lambda token: -chances[token])


def test_what_the_draw_adds_to_a_token_is_one_more_of_the_log_odds() -> None:
    """The noise is that of the token's own position, the first drafted one's and its depth."""
    known, noise, depth = table(), Heard(0.5, RandomSource(3), position=20), 1
    known.read(0, 0, [1, 2, 3, 1, 2, 4], 0)
    ranked = dict(known.ranked(0, 0, [1, 2], [], depth, noise))
    g = RandomSource(3).gumbel(21, 5)
    # Both contexts name 4 first and 3 second; of the longest known context two tokens.
    scores = {4: -2 + 3.0 + 3.0, 3: -2 + 2.0 + 2.0}
    wanted = {
        token: 1 / (1 + math.exp(-(score + 0.5 * (1.5 * float(g[token]) - 0.5 * 0.75))))
        for token, score in scores.items()
    }
    total = max(1.0, sum(wanted.values()))
    assert ranked == pytest.approx({token: chance / total for token, chance in wanted.items()}, rel=1e-5)


def test_a_tree_holds_the_likeliest_nodes_of_all() -> None:
    """Against all paths, scored one by one."""
    known = table(odds=(ONE[0], [-4.0] * 4, ONE[2]))
    draw = random.Random(1)
    text = [draw.randrange(6) for _ in range(60)]
    known.read(0, 0, text, 0)
    tokens, parents, chances = known.grow(0, 0, text[-3:], [], [], [], [], 12, 4, 0.0)
    survival: dict[tuple[int, ...], float] = {(): 1.0}
    frontier: list[tuple[int, ...]] = [()]
    while frontier:
        path = frontier.pop()
        if len(path) < 4:
            for token, chance in known.ranked(0, 0, [*text, *path], [], len(path)):
                survival[(*path, token)] = survival[path] * chance
                frontier.append((*path, token))
    best = sorted((value for path, value in survival.items() if path), reverse=True)[:12]
    paths = [tuple(reference._path(tokens, parents, node)) for node in range(len(tokens))]
    assert len(set(paths)) == 12
    assert sorted((survival[path] for path in paths), reverse=True) == pytest.approx(best)
    assert [survival[path] for path in paths] == pytest.approx(best)
    for path, chance in zip(paths, chances, strict=True):
        assert survival[path] == pytest.approx(survival[path[:-1]] * chance)


def test_a_draft_of_another_is_extended_below_and_beside_its_nodes() -> None:
    known = table()
    known.read(0, 0, [1, 2, 3, 4, 1, 5], 0)
    tokens, parents, chances = known.grow(0, 0, [1], [], [5, 3], [-1, -1], [0.9, 0.5], 8, 3, 1e-3)
    assert (tokens[:2], parents[:2], chances[:2]) == ([5, 3], [-1, -1], [0.9, 0.5])
    added = set(zip(parents[2:], tokens[2:], strict=True))
    assert {(-1, 2), (1, 4)} <= added
    assert (-1, 5) not in added
    assert known.grow(0, 0, [1], [], [5, 3], [-1, -1], [0.9, 0.5], 2, 3, 0.0)[0] == [5, 3]


def test_what_was_written_longest_ago_makes_room_and_a_scope_can_be_dropped() -> None:
    known = table(contexts=4)
    for token in range(6):
        known.read(0, 0, [token, 9], 0)
    assert [bool(successors(known, token)) for token in range(6)] == [False, False, True, True, True, True]
    known.read(1, 0, [7, 9], 0)
    known.forget(0)
    assert not any(successors(known, token) for token in range(6))
    assert successors(known, 7, scope=1)


@every_architecture
@pytest.mark.parametrize("seed", range(6))
def test_native_code_does_what_the_reference_does(seed: int, architecture: str) -> None:
    draw = random.Random(seed)
    vocab, contexts = draw.choice([(5, 16), (40, 64), (40, 4), (1000, 1024)])
    odds = random_odds(seed)
    first = [[draw.randrange(vocab) for _ in range(WIDTH)] for _ in range(vocab)] if seed % 2 else None
    rows = None if first is None else np.array(first, np.int32)
    ours = Successors(contexts, vocab, *odds, rows, kernels(architecture))
    want = table(contexts, odds, first)

    def some(most: int, least: int = 0) -> list[int]:
        return [draw.randrange(vocab) for _ in range(draw.randint(least, most))]

    for _ in range(150):
        scope, owner = draw.choice([0, 1, 2**64 - 1]), draw.randrange(3)
        match draw.randrange(8):
            case 0 | 1:
                text = some(9)
                arguments: tuple[Any, ...] = (scope, owner, text, draw.randint(0, len(text)))
                ours.read(*arguments)
                want.read(*arguments)
            case 2 | 3 | 4:
                context, tokens = some(ORDER + 1), some(6)
                parents = [draw.randrange(-1, node) for node in range(len(tokens))]
                path = reference._nodes(parents, draw.randrange(-1, len(tokens)))
                top = np.array([draw.sample(range(vocab), min(8, vocab)) for _ in range(len(tokens) + 1)], np.int32)
                ours.learn(scope, owner, context, tokens, parents, path, top)
                want.learn(scope, owner, context, tokens, parents, path, top.tolist())
            case 5 | 6:
                tokens = some(4)
                parents = [draw.randrange(-1, node) for node in range(len(tokens))]
                chances = [draw.random() for _ in tokens]
                previous = [some(WIDTH) for _ in range(draw.randint(0, PREVIOUS))]
                noise = draw.choice([None, Heard(draw.random() + 0.1, RandomSource(seed), draw.randrange(99))])
                grown = (scope, owner, some(ORDER), previous, tokens, parents, chances, draw.randint(0, 12),
                         draw.randint(1, 6), draw.choice([0.0, 0.01, 0.2]), noise)  # fmt: skip
                (found, above, likely), (wanted, below, likelier) = ours.grow(*grown), want.grow(*grown)
                assert (found, above) == (wanted, below)
                # The noise is told to 1e-6 of itself, and up to 20, of which log-odds take at most 1.1 · 2.5.
                assert likely == pytest.approx(likelier, rel=1e-12 if noise is None else 6e-5)
            case _:
                if draw.random() < 0.2:
                    ours.forget(scope)
                    want.forget(scope)


def test_what_is_no_token_no_tree_and_no_row_is_refused() -> None:
    known = Successors(16, 10, *ONE, None, kernels("native"))
    row = np.zeros((2, 8), np.int32)
    for refused in (
        lambda: known.read(0, 0, [1, 10], 0),
        lambda: known.read(0, 0, [1, -1], 0),
        lambda: known.read(0, 0, [1, 2], -1),
        lambda: known.learn(0, 0, [10], [1], [-1], [], row),
        lambda: known.learn(0, 0, [1], [11], [-1], [], row),
        lambda: known.learn(0, 0, [1], [1], [0], [], row),
        lambda: known.learn(0, 0, [1], [1], [-2], [], row),
        lambda: known.learn(0, 0, [1], [1], [-1], [1], row),
        lambda: known.learn(0, 0, [1], [1], [-1], [], row[:1]),
        lambda: known.learn(0, 0, [1], [1], [-1], [], row + 10),
        lambda: known.grow(0, 0, [-1], [], [], [], [], 4, 3, 0.1),
        lambda: known.grow(0, 0, [1], [], [12], [-1], [0.5], 4, 3, 0.1),
        lambda: known.grow(0, 0, [1], [], [1], [5], [0.5], 4, 3, 0.1),
        lambda: known.grow(0, 0, [1], [], [], [], [], 4, 3, 0.1, Heard(-1.0, RandomSource(0), 0)),
    ):
        with pytest.raises(SpecdecError, match="kernels refuse"):
            refused()
    with pytest.raises(SpecdecError, match="has no table"):
        Successors(16, 2**20 + 1, *ONE, None, kernels("native")).read(0, 0, [1], 0)


def test_without_native_code_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make(16, 10, *ONE), Successors)
    monkeypatch.setattr(native, "library", lambda: None)
    assert isinstance(make(16, 10, *ONE, np.zeros((10, 8), np.int32)), reference.Table)
    assert FIRST_ROWS < SOURCES
