"""Closed forms against the papers' printed numbers, enumeration, and simulation."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from specdec.analysis.theory import (
    expected_tokens,
    gumbel_bound,
    gumbel_match,
    operations_factor,
    speedup_factor,
    total_variation,
)


@pytest.mark.parametrize(
    ("alpha", "gamma", "speed", "operations"),
    [(0.6, 2, 1.96, 1.53), (0.7, 3, 2.53, 1.58), (0.8, 2, 2.44, 1.23), (0.8, 5, 3.69, 1.63), (0.9, 2, 2.71, 1.11),
     (0.9, 10, 6.86, 1.60)],
)  # fmt: skip
def test_the_table_of_theoretical_factors(alpha: float, gamma: int, speed: float, operations: float) -> None:
    """Leviathan et al. 2023, table 1, at c = ĉ = 0."""
    assert round(speedup_factor(alpha, gamma, 0.0), 2) == speed
    assert round(operations_factor(alpha, gamma, 0.0), 2) == operations


@pytest.mark.parametrize(("alpha", "gamma"), [(0.0, 3), (0.3, 1), (0.8, 4), (1.0, 5)])
def test_expected_tokens_by_enumeration(alpha: float, gamma: int) -> None:
    mean = 0.0
    for accepted in product((True, False), repeat=gamma):
        chance = 1.0
        for one in accepted:
            chance *= alpha if one else 1 - alpha
        mean += chance * ((accepted.index(False) if False in accepted else gamma) + 1)
    assert expected_tokens(alpha, gamma) == pytest.approx(mean)


def by_definition(p: torch.Tensor, q: torch.Tensor) -> float:
    total = 0.0
    for j in range(len(p)):
        if p[j] > 0 and q[j] > 0:
            total += 1 / sum(max(float(p[i] / p[j]), float(q[i] / q[j])) for i in range(len(p)))
    return total


def pairs(count: int, size: int, zeros: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(size)
    made = []
    for _ in range(count):
        rows = torch.rand(2, size, dtype=torch.float64, generator=generator) ** 3
        if zeros:
            rows *= torch.rand(2, size, generator=generator) < 0.7
            rows[:, 0] += 1e-3
        rows /= rows.sum(-1, keepdim=True)
        made.append((rows[0], rows[1]))
    return made


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("size", [2, 3, 7, 40])
def test_the_match_of_shared_noise_is_the_papers_sum(size: int, zeros: bool) -> None:
    for p, q in pairs(20, size, zeros):
        assert float(gumbel_match(p, q)) == pytest.approx(by_definition(p, q), rel=1e-9)


def test_the_match_is_what_happens() -> None:
    """Four pairs, 40,000 draws each: five standard errors, so that one run in 10^6 fails."""
    generator = torch.Generator().manual_seed(0)
    for p, q in pairs(4, 6, zeros=False):
        noise = -torch.log(-torch.log(torch.rand(40000, 6, dtype=torch.float64, generator=generator)))
        seen = ((p.log() + noise).argmax(-1) == (q.log() + noise).argmax(-1)).double().mean()
        match = float(gumbel_match(p, q))
        assert float(seen) == pytest.approx(match, abs=5 * (match * (1 - match) / 40000) ** 0.5)


def test_the_match_lies_between_its_bound_and_rejection() -> None:
    for p, q in pairs(50, 9, zeros=True):
        distance = total_variation(p, q)
        assert gumbel_bound(distance) - 1e-12 <= gumbel_match(p, q) <= 1 - distance + 1e-12
    p = pairs(1, 5, zeros=False)[0][0]
    assert float(gumbel_match(p, p)) == pytest.approx(1)
    assert float(gumbel_match(torch.eye(2)[0], torch.eye(2)[1])) == 0


def test_one_hot_drafts_are_accepted_as_often_as_rejection_does() -> None:
    p, _ = pairs(1, 5, zeros=False)[0]
    for token in range(5):
        assert float(gumbel_match(p, torch.eye(5, dtype=torch.float64)[token])) == pytest.approx(float(p[token]))
