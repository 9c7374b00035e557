"""Paired tests against scipy, exact enumeration, tables written by hand, and simulation."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from specdec.measure.paired import groups, holm, paired_ratio


@pytest.mark.parametrize("count", [2, 3, 12, 80])
def test_the_test_and_its_interval_are_those_of_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.lognormal(0.4, 0.3, count), rng.lognormal(0.3, 0.3, count)
    found = paired_ratio(list(first), list(second))
    oracle = stats.ttest_rel(np.log(first), np.log(second))
    ends = oracle.confidence_interval(0.95)
    assert found.prompts == count
    assert found.ratio == pytest.approx(stats.gmean(first / second), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((np.exp(ends.low), np.exp(ends.high)), rel=1e-9)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)


def test_by_hand() -> None:
    """Ratios e and e³: the mean logarithm is 2, its error 1, and with one degree of freedom t = 2 has
    p = 1 - 2 arctan(2) / π. The quantile at 97.5 % is tan(0.475 π) = 12.706."""
    found = paired_ratio([np.e, np.e**3], [1.0, 1.0])
    assert np.log(found.ratio) == pytest.approx(2.0)
    assert found.p == pytest.approx(1 - 2 * np.arctan(2.0) / np.pi)
    assert found.low is not None
    assert np.log(found.low) == pytest.approx(2 - 12.7062, abs=1e-4)


def test_one_prompt_decides_nothing_and_equal_prompts_everything() -> None:
    one = paired_ratio([3.0], [1.5])
    assert (one.ratio, one.low, one.high, one.p) == (pytest.approx(2.0), None, None, 1.0)
    assert paired_ratio([3.0, 3.0], [1.5, 1.5]).p == 0.0
    assert paired_ratio([3.0, 1.0], [3.0, 1.0]).p == 1.0


def test_it_agrees_with_every_exchange_of_the_two_names() -> None:
    """If both methods are alike, a prompt's two numbers may change places. All 2^12 ways give the exact p of the mean.
    Of 30 samples the two p values differ by less than 0.03 each."""
    signs = np.array(list(product([1, -1], repeat=12)))
    rng = np.random.default_rng(0)
    for shift in np.linspace(0.0, 0.3, 30):
        differences = rng.normal(shift, 0.3, 12)
        exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
        assert paired_ratio(list(np.exp(differences)), [1.0] * 12).p == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("count", [5, 20])
def test_the_interval_holds_the_true_ratio_in_95_of_100_samples(count: int) -> None:
    """Slow prompts are slow for both. 4000 samples: fewer than 1 of 20,000 runs is off by 1.4 %."""
    rng = np.random.default_rng(7)
    prompts = rng.normal(0.0, 0.5, (4000, count))
    first = np.exp(prompts + rng.normal(0.1, 0.1, prompts.shape))
    second = np.exp(prompts + rng.normal(0.0, 0.1, prompts.shape))
    found = [paired_ratio(one, other) for one, other in zip(first, second, strict=True)]
    hits = np.mean([one.low <= np.exp(0.1) <= one.high for one in found if one.low and one.high])
    assert hits == pytest.approx(0.95, abs=0.014)


def test_holm_by_hand() -> None:
    """Of four p values the smallest counts four times, the next three times, …, and none is below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_with_equal_methods_any_pair_is_called_different_in_at_most_5_of_100_studies() -> None:
    """Four methods, six pairs, 1000 studies of 15 prompts: above 7.2 % by chance in fewer than 1 of 700 runs. Without
    Holm's correction it is about 20 %."""
    rng = np.random.default_rng(3)
    wrong, bare = 0, 0
    for _ in range(1000):
        methods = np.exp(rng.normal(0.0, 0.2, (4, 15)))
        p = [paired_ratio(a, b).p for a, b in combinations(list(methods), 2)]
        wrong += min(holm(p)) < 0.05
        bare += min(p) < 0.05
    assert wrong / 1000 < 0.072
    assert bare / 1000 > 0.12


def test_groups_are_runs_of_neighbours_without_a_difference() -> None:
    """1 = 2, 2 = 3, 1 ≠ 3, and 4 differs from all."""
    table = {(0, 2), (0, 3), (1, 3), (2, 3)}
    assert groups(4, lambda a, b: (a, b) in table) == [range(2), range(1, 3), range(3, 4)]
    assert groups(3, lambda a, b: False) == [range(3)]
    assert groups(2, lambda a, b: True) == [range(1), range(1, 2)]
    assert groups(0, lambda a, b: True) == []
