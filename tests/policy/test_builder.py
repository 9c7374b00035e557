"""The best set of nodes: against every set that there is, and against Sequoia's dynamic programme."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.policy.builder import MOST_NODES, MOST_ROWS, Wish, best_shape, build, least_survival, speed
from specdec.policy.curve import CostCurve
from specdec.verify.shape import RANKS, ROOT, TreeShape

pytestmark = pytest.mark.fewer(3)

FREE = CostCurve((1, 100), (1.0, 1.0))
PROPORTIONAL = CostCurve((1, 100), (1.0, 100.0))
TYPICAL = CostCurve((1, 8, 16, 64), (1.0, 1.1, 1.5, 5.0))
STEPPED = CostCurve((1, 2, 3, 4, 5, 100), (1.0, 1.5, 1.5, 1.5, 1.51, 3.0))
"""The second row is dear, and the next ones are free: the best size lies behind a drop."""
CURVES = {"free": FREE, "proportional": PROPORTIONAL, "typical": TYPICAL, "stepped": STEPPED}


def step_of(curve: CostCurve, requests: int = 1) -> list[float]:
    return [curve(requests + rows) for rows in range(MOST_ROWS + 1)]


def tree(draw: random.Random, size: int) -> tuple[TreeShape, list[float]]:
    """A random tree and the survival of its nodes."""
    parents = tuple(draw.randint(ROOT, node - 1) for node in range(size))
    survivals: list[float] = []
    for parent in parents:
        survivals.append((1.0 if parent == ROOT else survivals[parent]) * draw.choice([0.1, 0.3, 0.5, 0.8, 1.0]))
    return TreeShape(parents), survivals


def closed_sets(shape: TreeShape) -> list[tuple[int, ...]]:
    """Every set of nodes that has each node's parent."""
    sets = [nodes for size in range(len(shape) + 1) for nodes in combinations(range(len(shape)), size)]
    return [nodes for nodes in sets if all(shape.parents[node] in (ROOT, *nodes) for node in nodes)]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("seed", range(12))
def test_no_node_that_is_taken_survives_less_than_the_least_that_pays(name: str, seed: int) -> None:
    draw, requests = random.Random(seed), seed % 4 + 1
    drafts = [tree(draw, draw.randint(1, 9)) for _ in range(requests)]
    seconds = step_of(CURVES[name], requests)
    parts = build([Wish(survivals, shape.depths) for shape, survivals in drafts], requests, seconds, margin=0.0)
    taken = seconds[: sum(map(len, parts)) + 1]
    least = least_survival(requests, min((after / before for before, after in pairwise(taken)), default=1.0))
    for (_, survivals), nodes in zip(drafts, parts, strict=True):
        assert all(survivals[node] >= least - 1e-12 for node in nodes)


def test_where_more_rows_cost_nothing_every_node_pays() -> None:
    """Also where rounding says that a pass gets shorter by a row."""
    assert [least_survival(requests, 1.0 - 2**-53) for requests in (1, 8)] == [0.0, 0.0]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("seed", range(12))
def test_no_part_of_a_draft_is_faster(name: str, seed: int) -> None:
    draw, curve = random.Random(seed), CURVES[name]
    shape, survivals = tree(draw, draw.randint(1, 7))
    [nodes] = build([Wish(survivals, shape.depths)], 1, step_of(curve), margin=0.0)
    assert all(shape.parents[node] in (ROOT, *nodes) for node in nodes)

    def fast(chosen: Sequence[int]) -> float:
        return (1 + sum(survivals[node] for node in chosen)) / curve(1 + len(chosen))

    best = max(map(fast, closed_sets(shape)))
    assert fast(nodes) == pytest.approx(best)
    assert speed(Wish(survivals, shape.depths), step_of(curve)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(12))
def test_of_two_requests_no_other_parts_have_a_larger_product_of_speeds(seed: int) -> None:
    draw = random.Random(seed)
    curve, others = draw.choice(list(CURVES.values())), draw.randint(0, 3)
    requests = 2 + others
    (one, ours), (two, theirs) = tree(draw, draw.randint(1, 5)), tree(draw, draw.randint(1, 5))
    parts = build([Wish(ours, one.depths), Wish(theirs, two.depths)], requests, step_of(curve, requests), margin=0.0)

    def product(a: Sequence[int], b: Sequence[int]) -> float:
        tokens = (1 + sum(ours[node] for node in a)) * (1 + sum(theirs[node] for node in b))
        return tokens / curve(requests + len(a) + len(b)) ** requests

    best = max(product(a, b) for a in closed_sets(one) for b in closed_sets(two))
    assert product(*parts) == pytest.approx(best)


def test_all_sizes_are_looked_at() -> None:
    """One row of .45 does not pay at 1.5, four do: 1 + 4 · .45 / 1.51."""
    fork = Wish([0.45] * 4, [0] * 4)
    assert build([fork], 1, step_of(STEPPED)) == [[0, 1, 2, 3]]
    assert build([Wish([0.45], [0])], 1, step_of(STEPPED)) == [[]]


def test_small_gains_are_left_alone() -> None:
    wish = Wish([0.12], [0])  # 1.12 tokens at a cost of 1.1
    two = CostCurve((1, 2), (1.0, 1.1))
    assert build([wish], 1, step_of(two), margin=0.0) == [[0]]
    assert build([wish], 1, step_of(two)) == [[]]


@pytest.mark.parametrize("seed", range(12))
def test_levels_that_are_drawn_cost_by_the_deepest_of_all(seed: int) -> None:
    draw = random.Random(seed)
    level = draw.choice([0.01, 0.1, 0.3])
    (one, ours), (two, theirs) = tree(draw, draw.randint(1, 5)), tree(draw, draw.randint(1, 5))
    parts = build([Wish(ours, one.depths), Wish(theirs, two.depths)], 2, step_of(TYPICAL, 2), level, margin=0.0)

    def product(a: Sequence[int], b: Sequence[int]) -> float:
        tokens = (1 + sum(ours[node] for node in a)) * (1 + sum(theirs[node] for node in b))
        levels = (
            max((one.depths[node] + 1 for node in a), default=0),
            max((two.depths[node] + 1 for node in b), default=0),
        )
        return tokens / (TYPICAL(2 + len(a) + len(b)) + max(levels) * level) ** 2

    best = max(product(a, b) for a in closed_sets(one) for b in closed_sets(two))
    assert product(*parts) == pytest.approx(best)


def test_no_draft_is_larger_than_what_is_looked_at() -> None:
    [nodes] = build([Wish([1.0] * 60, list(range(60)))], 1, step_of(FREE))
    assert nodes == list(range(MOST_NODES))


def sequoia(rates: Sequence[float], max_nodes: int, max_depth: int) -> float:
    """Expected tokens of the best tree by the dynamic programme of Chen et al. 2024, section 3.1.

    best(m, d, b): a tree of m nodes, its root among them, whose root has at most the children of ranks below b.
    """

    @cache
    def best(size: int, depth: int, degree: int) -> float:
        if size == 1 or depth == 0 or degree == 0:
            return 1.0
        without = best(size, depth, degree - 1)
        with_last = max(
            best(size - part, depth, degree - 1) + rates[degree - 1] * best(part, depth - 1, len(rates))
            for part in range(1, size)
        )
        return max(without, with_last)

    return best(max_nodes + 1, max_depth, len(rates))


@pytest.mark.parametrize("rates", [(0.6, 0.15, 0.08, 0.05), (0.9, 0.05), (0.3, 0.25, 0.2, 0.1), (0.5,)])
@pytest.mark.parametrize("max_nodes", [1, 2, 5, 9, 16])
@pytest.mark.parametrize("max_depth", [1, 2, 3, 6])
def test_the_best_shape_is_sequoias(rates: tuple[float, ...], max_nodes: int, max_depth: int) -> None:
    shape, survivals = best_shape(lambda kind: rates[kind % RANKS], max_depth, max_nodes, widest=len(rates))
    assert len(shape) <= max_nodes
    assert shape.depth <= max_depth
    assert 1 + sum(survivals) == pytest.approx(sequoia(rates, max_nodes, max_depth))
    for node, survival in enumerate(survivals):
        ranks = []
        while node != ROOT:
            ranks.append(shape.children(shape.parents[node]).index(node))
            node = shape.parents[node]
        assert survival == pytest.approx(prod(rates[rank] for rank in ranks))


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(lambda rates: sorted(rates, reverse=True)))
def test_a_larger_tree_holds_the_smaller_one(rates: list[float]) -> None:
    large, _ = best_shape(lambda kind: rates[kind % RANKS], 5, 12, widest=len(rates))
    small, _ = best_shape(lambda kind: rates[kind % RANKS], 5, 6, widest=len(rates))
    assert large.parents[: len(small)] == small.parents
