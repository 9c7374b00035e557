"""What is learnt of drafts' nodes, by hand."""

from __future__ import annotations

import pytest

from specdec.policy.base import Draft
from specdec.policy.survival import (
    MEMORY,
    POOL_MEMORY,
    POOL_WEIGHT,
    PRIOR_RATES,
    PRIOR_WEIGHT,
    Rate,
    SurvivalTable,
    judged,
    on_the_way,
)
from specdec.verify.tree import KINDS, ROOT, DraftTree

TREE = DraftTree((5, 6, 7, 8, 9), (ROOT, ROOT, 0, 0, 2), kinds=(1, 2, 3, 4, 5))
"""After the root 5 or 6; after 5 comes 7 or 8; after 5 7 comes 9."""


def test_a_rate_by_hand() -> None:
    rate = Rate()
    rate.observe(True, 0.9)
    rate.observe(False, 0.9)
    assert (rate.accepted, rate.tested) == pytest.approx((0.9, 1.9))


@pytest.mark.parametrize(
    ("tokens", "tested", "path"),
    [
        ((1,), [0, 1], []),
        ((6,), [0, 1], [1]),  # node 1 has no children: nothing more to test
        ((6, 7), [0, 1], [1]),
        ((5,), [0, 1], [0]),  # what comes after 5 is not known
        ((5, 1), [0, 1, 2, 3], [0]),
        ((5, 8, 9), [0, 1, 2, 3], [0, 3]),
        ((5, 7, 9, 1), [0, 1, 2, 3, 4], [0, 2, 4]),
        ((), [], []),
    ],
)
def test_how_far_a_draft_was_right(tokens: tuple[int, ...], tested: list[int], path: list[int]) -> None:
    assert on_the_way(TREE, tokens) == (tested, path)
    if len(tokens) > len(path):  # the token that refuses the rest is there, so that the rule has judged as much
        assert judged(TREE, path) == tested


def test_survival_is_the_product_of_the_rates_on_the_way() -> None:
    table = SurvivalTable()
    guessed = DraftTree(TREE.tokens, TREE.parents, kinds=TREE.kinds, chances=(0.5, 0.25, 0.8, 0.1, 0.5))
    assert table.survivals(0, Draft("d", guessed)) == pytest.approx([0.5, 0.25, 0.4, 0.05, 0.2])
    first, second = PRIOR_RATES[:2]
    unknown = [first, second, first * first, first * second, first * first * first]
    assert table.survivals(0, Draft("d", TREE)) == pytest.approx(unknown)


def test_one_request_leans_on_all_and_all_on_what_was_believed() -> None:
    table = SurvivalTable()
    for _ in range(2):
        table.observe(0, Draft("d", TREE), [0, 1], [1])
    pooled = (0 + 0.3 * PRIOR_WEIGHT) / (POOL_MEMORY + 1 + PRIOR_WEIGHT)
    assert table.rate(1, "d", 1, 0.3) == pytest.approx(pooled)
    assert table.rate(0, "d", 1, 0.3) == pytest.approx(POOL_WEIGHT * pooled / (MEMORY + 1 + POOL_WEIGHT))
    assert 0.5 < table.rate(1, "d", 2, 0.3) < table.rate(0, "d", 2, 0.3) < 0.6
    assert table.rate(0, "e", 1, 0.3) == table.rate(0, "d", 3, 0.3) == 0.3  # other drafters, untested kinds


def test_the_true_rate_is_found_whatever_was_believed() -> None:
    """Seven of ten, for 2000 observations: the mean over the last 200 is within .05."""
    table = SurvivalTable()
    chain = DraftTree((1,), (ROOT,), kinds=(9,))
    for number in range(2000):
        table.observe(number % 5, Draft("d", chain), [0], [0] if number % 10 < 7 else [])
    assert table.rate(99, "d", 9, 0.01) == pytest.approx(0.7, abs=0.05)


def test_nothing_grows_over_ten_thousand_requests() -> None:
    table = SurvivalTable()
    for request in range(10_000):
        kind = request * 7 % KINDS
        table.observe(request, Draft("d", DraftTree((1,), (ROOT,), kinds=(kind,))), [0], [])
        table.survivals(request, Draft("d", TREE))
        table.end(request)
    assert sum(map(len, table.pool.values())) <= KINDS
    assert table.requests == frozenset()
