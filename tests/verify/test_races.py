"""The joint law of the two races against what is known of it in closed form."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from specdec.verify.draws import without_replacement_law
from specdec.verify.races import race_law
from specdec.verify.rational import Row, normalized


def rows(size: int) -> st.SearchStrategy[Row]:
    weights = st.lists(st.integers(0, 6), min_size=size, max_size=size).filter(any)
    return weights.map(lambda w: normalized(map(Fraction, w)))


@given(st.integers(2, 4).flatmap(lambda n: st.tuples(rows(n), rows(n), st.integers(1, 3))))
def test_margins_are_the_draft_law_and_the_target(problem: tuple[Row, Row, int]) -> None:
    p, q, k = problem
    joint = race_law(p, q, k)
    assert tuple(map(sum, zip(*joint.values(), strict=True))) == p
    assert {tokens: sum(row) for tokens, row in joint.items() if any(row)} == without_replacement_law(q, k)


@given(st.integers(2, 4).flatmap(lambda n: st.tuples(rows(n), rows(n))))
def test_one_candidate_matches_with_the_published_probability(problem: tuple[Row, Row]) -> None:
    """Σ_j 1 / Σ_i max(p_i/p_j, q_i/q_j) (Daliri et al. 2025)."""
    p, q = problem
    want = sum(1 / sum(max(p[i] / p[j], q[i] / q[j]) for i in range(len(p))) for j in range(len(p)) if p[j] and q[j])
    assert sum(row[tokens[0]] for tokens, row in race_law(p, q, 1).items()) == want


def test_two_candidates_by_simulation() -> None:
    """Half a million exponential races: each frequency within six standard deviations, error rate below 1e-7."""
    p, q = normalized(map(Fraction, (1, 4, 2))), normalized(map(Fraction, (3, 1, 2)))
    clocks = np.random.default_rng(5).exponential(size=(500_000, 3))
    order = (clocks / np.array([float(x) for x in q])).argsort(1)[:, :2]
    winner = (clocks / np.array([float(x) for x in p])).argmin(1)
    for tokens, row in race_law(p, q, 2).items():
        for b, probability in enumerate(row):
            seen = float(((order == tokens).all(1) & (winner == b)).mean())
            limit = 6 * (float(probability) * (1 - float(probability)) / 500_000) ** 0.5
            assert abs(seen - float(probability)) <= limit
