"""Which drafter and which shape: against every choice that there is, worked out from the rates."""

from __future__ import annotations

import random
from itertools import product

import pytest

from specdec.policy.base import Ask, Candidate, Choice, Draft, Load
from specdec.policy.curve import CostCurve
from specdec.policy.product import FEW, ProductPolicy
from specdec.policy.select import SelectPolicy
from specdec.policy.survival import PRIOR_RATES
from specdec.policy.trials import SHARE
from specdec.verify.shape import RANKS, ROOT
from specdec.verify.tree import DraftTree, TreeShape

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
            policy.observe(request, Draft(drafter, CHAIN), range(number), (*CHAIN.tokens[:number], 99))
    return policy


def speed(policy: ProductPolicy, drafter: str, depth: int, curve: CostCurve, level: float) -> float:
    """Tokens a second of request 0 alone, if it drafts so deep."""
    tokens = chance = 1.0
    for at in range(depth):
        chance *= policy.survival.rate(0, drafter, at * RANKS, PRIOR_RATES[0])
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
        policy.drafted("b", 1, 2, 2 * level)
        asked = candidates(4, 3, 2, trimmable=trimmable)
        best = max(
            asked,  # the first of equals
            key=lambda one: max(
                speed(policy, one.drafter, depth, curve, level if one.drafter == "b" and not trimmable else 0.0)
                for depth in range(one.depth + 1)
            ),
        )
        assert policy._best(Ask(0, asked), Load(1, 1)).drafter == best.drafter
        chosen.add(best.drafter)
    if curve is CHEAP and (trimmable or level < 1):
        assert chosen == set(NAMES)


def test_where_no_draft_pays_the_first_drafter_is_asked() -> None:
    """Though the second one would lose less."""
    policy = taught(DEAR, {(0, "a"): 0, (0, "b"): 2})
    assert policy._best(Ask(0, candidates(4, 4)), Load(1, 1)).drafter == "a"


def test_a_draft_that_pays_is_found_where_passes_take_seconds() -> None:
    """A plain token takes 4 s; what the second drafter promises is more than that, and less than a token a second."""
    policy = taught(CostCurve((1, 8), (4.0, 4.4)), {(0, "a"): 0, (0, "b"): 2})
    assert policy._best(Ask(0, candidates(4, 4)), Load(1, 1)).drafter == "b"


def depths(policy: ProductPolicy, asks: list[Ask], requests: int) -> list[int]:
    return [sum(choice.depth for choice in own) for own in policy.choose(asks, Load(requests, requests))]


def test_a_doubtful_draft_behind_a_sure_one_is_no_deeper_than_its_limit() -> None:
    policy = taught(CostCurve((1, 64), (1.0, 1.001)), {(0, "a"): 4, (1, "a"): 0})
    assert depths(policy, [Ask(0, candidates(4)), Ask(1, candidates(1))], 2) == [4, 1]


def test_each_request_gets_the_depth_of_its_own_rates_and_its_own_limit() -> None:
    policy = taught(CHEAP, {(0, "a"): 4, (1, "a"): 0, (2, "a"): 4})
    asks = [Ask(request, candidates(limit)) for request, limit in ((0, 4), (1, 3), (2, 1))]
    assert depths(policy, asks, 3) == [4, 0, 1]
    assert depths(policy, asks[::-1], 3) == [1, 0, 4]
    dear = taught(CostCurve((1, 16), (1.0, 31.0)), {(0, "a"): 0})
    assert depths(dear, [Ask(0, candidates(4))], 1) == [0]


def test_the_slowest_drafter_of_a_step_is_waited_for() -> None:
    policy = taught(CHEAP, {(0, "a"): 3, (1, "b"): 3})
    policy.drafted("a", 1, 1, 0.001)
    both = [Ask(0, candidates(4)), Ask(1, (Candidate("b", 4, False),))]
    assert all(depths(policy, both, 2))
    policy.drafted("b", 1, 1, 50.0)
    assert depths(policy, both, 2) == [0, 0]


def test_what_can_be_trimmed_is_asked_for_as_deep_as_it_goes() -> None:
    policy = taught(DEAR, {(0, "a"): 0})
    [[choice]] = policy.choose([Ask(0, candidates(4, trimmable=True))], Load(1, 1))
    assert choice == Choice("a", 4, floor=choice.floor)
    assert 0 < choice.floor < 1


def test_where_no_node_can_pay_nobody_is_asked() -> None:
    """256 requests wait for each other: no node gains one of them what its row costs all."""
    asks = [Ask(request, candidates(4, trimmable=True)) for request in range(256)]
    for make in (ProductPolicy, SelectPolicy):
        policy = make(CostCurve((1, 256, 512), (1.0, 1.0, 10.0)))
        assert policy.choose(asks, Load(256, 256)) == [[]] * 256
        assert all(policy.choose(asks[:1], Load(1, 1)))


def test_a_shape_is_cut_to_the_nodes_that_are_accepted() -> None:
    """Of a fork of three the second candidate and what comes after it are right as often as the first; the third and
    all below it never are."""
    fork, policy = TreeShape.fork(3, 2), ProductPolicy(CostCurve((1, 20), (1.0, 1.9)))
    drawn = Draft("a", DraftTree(tuple(range(6)), fork.parents))
    for turn in range(120):
        path = [[0, 3], [1, 4]][turn % 2]
        policy.observe(0, drawn, path, (*path, 99))
    [[choice]] = policy.choose([Ask(0, (Candidate("a", 2, False, fork),))], Load(1, 1))
    assert choice == Choice("a", 2, TreeShape.fork(2, 2))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_accepted_a_shape_has_every_nodes_likelier_siblings(seed: int) -> None:
    draw, policy = random.Random(seed), ProductPolicy(CHEAP)
    shape = TreeShape.choices([[a, b, c] for a in range(3) for b in range(2) for c in range(2)])
    drawn = DraftTree(tuple(range(len(shape))), shape.parents)
    ends = draw.choices(range(len(shape)), k=2)
    for _ in range(60):
        path = drawn.path(draw.choice(ends))
        policy.observe(0, Draft("a", drawn), path, (*path, 99))
    [chosen] = policy.choose([Ask(0, (Candidate("a", 3, False, shape),))], Load(1, 1))
    for choice in chosen:
        assert choice.shape is not None
        known = {tuple(one) for one in paths(shape)}
        assert {tuple(one) for one in paths(choice.shape)} <= known


def paths(shape: TreeShape) -> list[list[int]]:
    """Of each node the ranks on the way to it."""
    found: list[list[int]] = []
    for node, parent in enumerate(shape.parents):
        above = [] if parent == ROOT else found[parent]
        found.append([*above, shape.children(parent).index(node)])
    return found


def test_a_drafter_that_nobody_knows_drafts_for_one_request_at_first() -> None:
    policy = ProductPolicy(CostCurve((1, 64), (1.0, 1.1)))
    asks = [Ask(request, candidates(4)) for request in range(3)]
    assert depths(policy, asks, 3) == [1, 0, 0]
    assert depths(policy, asks, 3) == [0, 1, 0]
    for _ in range(FEW + 1):
        policy.observe(0, Draft("a", CHAIN), range(4), (1, 2, 3, 4, 99))
    assert depths(policy, asks, 3) == [4, 4, 4]


@pytest.mark.parametrize("price", [0.05, 0.5, 5.0])
def test_trials_cost_a_share_of_the_time(price: float) -> None:
    """A drafter that is never right takes `price` for a level; the target's pass takes 2."""
    policy = taught(DEAR, {(0, "a"): 0})
    policy.drafted("a", 1, 1, price)
    spent, total, trials = 0.0, 0.0, 0
    for _ in range(20_000):
        [tried] = depths(policy, [Ask(0, candidates(4))], 1)
        rows = 1 + tried
        spent += tried * (price + DEAR(2) - DEAR(1))
        total += DEAR(rows)
        trials += tried
        policy.timed(Load(rows, 1), DEAR(rows))
    assert trials > 3
    assert spent <= SHARE * total
    assert spent >= 0.9 * SHARE * total - price - 2


def test_positions_behind_a_refusal_were_not_tested() -> None:
    policy = taught(CHEAP, {(0, "a"): 1}, times=1)
    seen = {kind // RANKS: (rate.accepted, rate.tested) for kind, rate in policy.survival.pool["a"].items()}
    assert seen == {0: (1, 1), 1: (0, 1)}
