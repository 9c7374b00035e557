"""The fit of the log-odds that `drafter=recycling` adds up."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from experiments.recycling import DROPPED, Drawn, Table, fitted, fitted_noise, module_of
from specdec.drafters import odds
from specdec.kernels.successors import FIRST_ROWS, SOURCES, WIDTH, Heard
from specdec.randomness import RandomSource


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_fit_gives_every_rank_its_share_of_the_next_tokens() -> None:
    """Two sources, never together: of one the first token follows in 60 and the second in 30 of 100 cases; the other
    knows one token, which follows in 1 of 5, and in half of its cases a second list does not have that token."""
    seen: list[tuple[list[tuple[int, list[int]]], int]] = []
    for number in range(1000):
        seen.append(([(FIRST_ROWS, [1, 2])], 1 if number % 10 < 6 else 2 if number % 10 < 9 else 3))
        seen.append(([(1, [4])], 4 if number % 5 == 0 else 5))
        seen.append(([(1, [4]), (7, [6])], 4 if number % 2 else 6))
    ranks, lengths = fitted(seen)
    assert len(ranks) == SOURCES
    assert {len(row) for row in ranks} == {WIDTH + 1}
    assert sigmoid(ranks[FIRST_ROWS][0] + lengths[0]) == pytest.approx(0.6, abs=0.01)
    assert sigmoid(ranks[FIRST_ROWS][1] + lengths[0]) == pytest.approx(0.3, abs=0.01)
    assert sigmoid(ranks[1][0] + lengths[1]) == pytest.approx(0.2, abs=0.01)
    assert sigmoid(ranks[1][0] + ranks[7][WIDTH] + lengths[2]) == pytest.approx(0.5, abs=0.01)
    assert sigmoid(ranks[1][WIDTH] + ranks[7][0] + lengths[2]) == pytest.approx(0.5, abs=0.01)
    assert ranks[3] == [0.0] * (WIDTH + 1), "what was never seen says nothing"


def test_what_is_printed_is_the_module() -> None:
    found: dict[str, Any] = {}
    exec(module_of(odds.RANKS, odds.LENGTHS, odds.NOISE), found)
    assert (found["RANKS"], found["LENGTHS"], found["NOISE"]) == (odds.RANKS, odds.LENGTHS, odds.NOISE)


def test_the_noise_is_worth_what_the_draws_show() -> None:
    """Drawn by the law that is fitted: 20,000 tokens tell each number to 0.03, four times its standard error."""
    draw, by, lost, drawn = random.Random(0), 0.7, -0.5, list[Drawn]()
    for _ in range(20_000):
        temperature, g = draw.choice([0.5, 1.0, 1.5]), draw.gauss(0, 1.3)
        score = odds.RANKS[FIRST_ROWS][0] + odds.LENGTHS[0] + 2.5
        hit = draw.random() < sigmoid(score + by * temperature * g + lost * temperature**2)
        drawn.append(Drawn([(FIRST_ROWS, [1])], 1 if hit else 2, temperature, {1: g}))
    lengths = [odds.LENGTHS[0] + 2.5, *odds.LENGTHS[1:]]
    assert fitted_noise(drawn, odds.RANKS, lengths) == pytest.approx((by, lost), abs=0.06)


def test_sources_can_be_left_out() -> None:
    table = Table(16, odds.RANKS, odds.LENGTHS, odds.NOISE, [[7, 8]] * 10)
    table.read(0, 0, [3, 1, 2, 3, 1, 2], 0)
    table.learn(0, 0, [1, 2], [5], [-1], [], [[3, 4], [5, 6]])
    about = (0, 0, [3, 1, 2], [[9]], 0)
    whole = {source for source, _ in table.lists(*about)}

    for name, drops in DROPPED.items():
        table.dropped = (name,)  # of `noise` no list is left out
        assert {source for source, _ in table.lists(*about)} == {source for source in whole if not drops(source)}
    assert {name for name, drops in DROPPED.items() if any(map(drops, whole))} >= {"first", "previous", "two", "three"}


def test_the_noise_can_be_left_out() -> None:
    tables = [
        Table(16, odds.RANKS, odds.LENGTHS, odds.NOISE, [[7, 8]] * 10, dropped=dropped) for dropped in ((), ("noise",))
    ]
    heard = Heard(1.0, RandomSource(1), 5)
    with_noise, without = (table.ranked(0, 0, [3], [], 0, heard) for table in tables)
    assert without == tables[0].ranked(0, 0, [3], [], 0)
    assert dict(with_noise).keys() == dict(without).keys()
    assert with_noise != without
