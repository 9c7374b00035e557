"""Bounds: two formulas agree, and known values come out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_array

from specdec import ConfigError
from specdec.proof.bounds import CandidateLaw, iid_bound, joint_prefix_bound, subset_bound
from specdec.verify.draws import without_replacement_law
from specdec.verify.rational import Row, normalized
from specdec.verify.token import TokenRule


def rows(size: int) -> st.SearchStrategy[Row]:
    weights = st.lists(st.integers(0, 6), min_size=size, max_size=size).filter(any)
    return weights.map(lambda w: normalized(map(Fraction, w)))


PROBLEMS = st.integers(2, 5).flatmap(lambda n: st.tuples(rows(n), rows(n), st.integers(1, 3)))
LAWS = {"iid": TokenRule().draw_law, "without replacement": without_replacement_law}


def transport_bound(p: Row, candidates: CandidateLaw) -> float:
    """α* as a linear program: the largest mass that can flow from candidate sets to tokens among them.

    Solved by HiGHS through scipy, to its feasibility tolerance of 1e-7.
    """
    edges = [(row, token) for row, tokens in enumerate(candidates) for token in sorted(set(tokens))]
    rows = [row for row, _ in edges] + [len(candidates) + token for _, token in edges]
    columns = [*range(len(edges)), *range(len(edges))]
    matrix = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(candidates) + len(p), len(edges)))
    limits = [float(mass) for mass in (*candidates.values(), *p)]
    solution = linprog(-np.ones(len(edges)), A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs")
    assert solution.success, solution.message
    return float(-solution.fun)


@pytest.mark.parametrize("scheme", LAWS)
@settings(max_examples=40)
@given(problem=PROBLEMS)
def test_the_subset_formula_is_the_linear_program(scheme: str, problem: tuple[Row, Row, int]) -> None:
    p, q, k = problem
    law = LAWS[scheme](q, k)
    # HiGHS is feasible to 1e-7 per constraint; there are at most 5³ + 5 of them.
    assert transport_bound(p, law) == pytest.approx(float(subset_bound(p, law)), abs=2e-5)


@settings(max_examples=100)
@given(problem=PROBLEMS)
def test_segments_suffice_for_independent_draws(problem: tuple[Row, Row, int]) -> None:
    p, q, k = problem
    dense = [torch.tensor([float(x) for x in row], dtype=torch.float64) for row in (p, q)]
    assert iid_bound(*dense, k) == pytest.approx(float(subset_bound(p, LAWS["iid"](q, k))), abs=1e-12)


@given(problem=PROBLEMS)
def test_known_values(problem: tuple[Row, Row, int]) -> None:
    p, q, k = problem
    one = subset_bound(p, LAWS["iid"](q, 1))
    assert one == sum(min(a, b) for a, b in zip(p, q, strict=True))  # 1 - TV
    assert subset_bound(p, LAWS["iid"](p, k)) == 1
    assert subset_bound(p, LAWS["iid"](q, k + 1)) >= subset_bound(p, LAWS["iid"](q, k)) >= one


def test_disjoint_supports_accept_nothing() -> None:
    p, q = (Fraction(1), Fraction(0)), (Fraction(0), Fraction(1))
    assert subset_bound(p, LAWS["iid"](q, 2)) == 0


def test_first_vector() -> None:
    p, q = (Fraction(1, 3), Fraction(2, 3)), (Fraction(2, 3), Fraction(1, 3))
    assert joint_prefix_bound(lambda _: p, lambda _: q, 2) == Fraction(12, 9)


def test_published_means() -> None:
    """Over 200 Dirichlet(1) pairs, V = 3, k = 2: .735 i.i.d., .860 without replacement. Error rate as for the rules:
    both means are over 200 pairs, 5·√2 standard errors, once in a million runs."""
    generator = np.random.default_rng(7)
    pairs = [
        tuple(normalized(Fraction(int(x * 10**6) + 1) for x in generator.dirichlet(np.ones(3))) for _ in range(2))
        for _ in range(200)
    ]
    for scheme, mean in (("iid", 0.735), ("without replacement", 0.860)):
        values = [float(subset_bound(p, LAWS[scheme](q, 2))) for p, q in pairs]
        assert abs(np.mean(values) - mean) <= 5 * 2**0.5 * np.std(values) / 200**0.5 + 0.0005


def test_a_real_vocabulary() -> None:
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.rand(49152, generator=generator, dtype=torch.float64).pow(8) for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    values = [iid_bound(p, q, k) for k in (1, 2, 4)]
    assert values[0] == pytest.approx(float(torch.minimum(p, q).sum()), abs=1e-9)
    assert values[0] < values[1] < values[2] < 1


def test_what_is_no_distribution_is_refused() -> None:
    half = (Fraction(1, 2), Fraction(1, 3))
    with pytest.raises(ConfigError, match="Normalise"):
        subset_bound(half, {(0,): Fraction(1)})
    with pytest.raises(ConfigError, match="at least 1"):
        iid_bound(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0)
