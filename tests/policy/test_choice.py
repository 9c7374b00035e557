"""Which drafter and how deep: against every choice that there is, worked out from the rates."""

from __future__ import annotations

from itertools import product

import pytest

from specdec.policy.base import Ask, Candidate, Choice, Load
from specdec.policy.curve import CostCurve
from specdec.policy.product import FADING, MEMORY, PRIOR_RATE, ProductPolicy, _Rate
from specdec.verify.tree import DraftTree

CHAIN = DraftTree.chain([1, 2, 3, 4])
DEAR = CostCurve((1, 8), (2.0, 16.0))
"""A row more costs as much as the first one."""
CHEAP = CostCurve((1, 8, 16), (2.0, 2.2, 6.0))
NAMES = ("a", "b", "c")


def candidates(*depths: int, trimmable: bool = False) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, depth, trimmable) for name, depth in zip(NAMES, depths, strict=False))


def taught(curve: CostCurve, accepted: dict[tuple[int, str], int], times: int = 40) -> ProductPolicy:
    """It has seen so many of four tokens accepted, for each request and drafter."""
    policy = ProductPolicy(curve)
    for _ in range(times):
        for (request, drafter), number in accepted.items():
            policy.observe(request, drafter, CHAIN, number)
    return policy


def speed(policy: ProductPolicy, drafter: str, depth: int, curve: CostCurve, level: float) -> float:
    """Tokens a second of request 0 alone, if it drafts so deep."""
    tokens = chance = 1.0
    for at in range(depth):
        chance *= policy._rate(0, (drafter, 0), at)
        tokens += chance
    return tokens / (curve(1 + depth) + depth * level)


@pytest.mark.parametrize("trimmable", [False, True])
@pytest.mark.parametrize("curve", [DEAR, CHEAP])
@pytest.mark.parametrize("level", [0.0, 0.3, 3.0])
def test_of_several_drafters_the_best_at_its_best_depth_is_asked(
    curve: CostCurve, level: float, trimmable: bool
) -> None:
    chosen = set[str]()
    for a, b, c in product((0, 2, 4), repeat=3):
        policy = taught(curve, {(0, "a"): a, (0, "b"): b, (0, "c"): c})
        policy.drafted("b", 2, 2 * level)
        asked = candidates(4, 3, 2, trimmable=trimmable)
        best = max(
            asked,  # the first of equals
            key=lambda one: max(
                speed(policy, one.drafter, depth, curve, level if one.drafter == "b" and not trimmable else 0.0)
                for depth in range(one.depth + 1)
            ),
        )
        assert policy._best(Ask(0, asked), Load(1, 1)) == Choice(best.drafter, best.depth)
        chosen.add(best.drafter)
    if curve is CHEAP and (trimmable or level < 1):
        assert chosen == set(NAMES)


def test_where_no_draft_pays_the_first_drafter_is_asked() -> None:
    """Though the second one would lose less."""
    policy = taught(DEAR, {(0, "a"): 0, (0, "b"): 2})
    assert policy._best(Ask(0, candidates(4, 4)), Load(1, 1)) == Choice("a", 4)


def test_a_draft_that_pays_is_found_where_passes_take_seconds() -> None:
    """A plain token takes 4 s; what the second drafter promises is more than that, and less than a token a second."""
    policy = taught(CostCurve((1, 8), (4.0, 4.4)), {(0, "a"): 0, (0, "b"): 2})
    assert policy._best(Ask(0, candidates(4, 4)), Load(1, 1)) == Choice("b", 4)


def test_a_doubtful_draft_behind_a_sure_one_is_no_deeper_than_its_limit() -> None:
    policy = taught(CostCurve((1, 64), (1.0, 1.001)), {(0, "a"): 4, (1, "a"): 0})
    asks = [Ask(0, candidates(4)), Ask(1, candidates(1))]
    assert policy.choose(asks, Load(2, 2)) == [Choice("a", 4), Choice("a", 1)]


def test_each_request_gets_the_depth_of_its_own_rates_and_its_own_limit() -> None:
    policy = taught(CHEAP, {(0, "a"): 4, (1, "a"): 0, (2, "a"): 4})
    asks = [Ask(request, candidates(limit)) for request, limit in ((0, 4), (1, 3), (2, 1))]
    assert policy.choose(asks, Load(3, 3)) == [Choice("a", 4), Choice("a", 0), Choice("a", 1)]
    assert policy.choose(asks[::-1], Load(3, 3)) == [Choice("a", 1), Choice("a", 0), Choice("a", 4)]
    dear = taught(CostCurve((1, 16), (1.0, 31.0)), {(0, "a"): 0})
    assert dear.choose([Ask(0, candidates(4))], Load(1, 1)) == [Choice("a", 0)]


def test_the_slowest_drafter_of_a_step_is_waited_for() -> None:
    policy = taught(CHEAP, {(0, "a"): 3, (1, "b"): 3})
    policy.drafted("a", 1, 0.001)
    both = [Ask(0, candidates(4)), Ask(1, (Candidate("b", 4, False),))]
    assert all(choice.depth for choice in policy.choose(both, Load(2, 2)))
    policy.drafted("b", 1, 50.0)
    assert [choice.depth for choice in policy.choose(both, Load(2, 2))] == [0, 0]


def test_what_can_be_trimmed_is_asked_for_in_full() -> None:
    policy = taught(DEAR, {(0, "a"): 0})
    assert policy.choose([Ask(0, candidates(4, trimmable=True))], Load(1, 1)) == [Choice("a", 4)]


def test_positions_behind_a_refusal_were_not_tested() -> None:
    policy = taught(CHEAP, {(0, "a"): 1}, times=1)
    for rates in (policy._pool, policy._requests[0]):
        seen = [rates.at(("a", 0), depth) for depth in range(4)]
        assert [(rate.accepted, rate.tested) for rate in seen] == [(1, 1), (0, 1), (0, 0), (0, 0)]


def test_a_rate_by_hand() -> None:
    rate = _Rate()
    assert rate.mean(PRIOR_RATE, 4.0) == PRIOR_RATE
    rate.observe(True)
    rate.observe(False)
    assert (rate.accepted, rate.tested) == pytest.approx((MEMORY, MEMORY + 1))
    rate.fade()
    assert (rate.accepted, rate.tested) == pytest.approx((FADING * MEMORY, FADING * (MEMORY + 1)))
    assert rate.mean(0.5, 2.0) == pytest.approx((FADING * MEMORY + 1) / (FADING * (MEMORY + 1) + 2))
