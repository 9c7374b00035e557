"""Are two methods of different speed? Paired tests on the prompts that both decoded.

The prompt is what is drawn at random, so that it is the unit of every test. Of each prompt a test takes one number, the
logarithm of the ratio of two speedups, so that a prompt counts the same whatever its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
"""Of every interval."""
LEVEL = 0.05
"""Chance that any pair of a family is called different although none is."""


@dataclass(frozen=True)
class PairedRatio:
    """How many times as fast one method is as another.

    Args:
        prompts: that both decoded.
        ratio: geometric mean over prompts of the first speedup over the second.
        low, high: ends of its 95 % interval, or None with fewer than two prompts.
        p: of the hypothesis that the ratio is 1; 1 with fewer than two prompts.
    """

    prompts: int
    ratio: float
    low: float | None
    high: float | None
    p: float


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> PairedRatio:
    """Student's paired t test on logarithms, two-sided, and the t interval of their mean difference (Student 1908).

    Args:
        first, second: speedups, all above 0, of the same prompts in the same order; at least one.
    """
    differences: NDArray[np.float64] = np.log(np.asarray(first, np.float64)) - np.log(np.asarray(second, np.float64))
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return PairedRatio(count, float(np.exp(mean)), None, None, 1.0)
    error = float(differences.std(ddof=1)) / count**0.5
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    statistic = mean / error if error else float(np.copysign(np.inf, mean)) if mean else 0.0
    p = 2 * float(stdtr(count - 1, -abs(statistic)))
    ratio, low, high = (float(np.exp(end)) for end in (mean, mean - reach, mean + reach))
    return PairedRatio(count, ratio, low, high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of a family, adjusted: to call those below `LEVEL` different is wrong about any of them with a chance of
    at most `LEVEL`, however the tests depend on each other (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def groups(count: int, different: Callable[[int, int], bool]) -> list[range]:
    """Runs of neighbours among ranked methods in which no pair is different, each as long as it can be (the bars of
    Demšar 2006).

    Args:
        count: of methods.
        different: of two places, the smaller one first.

    >>> groups(4, lambda a, b: b - a > 1)
    [range(0, 2), range(1, 3), range(2, 4)]
    """
    found: list[range] = []
    for begin in range(count):
        end = begin + 1
        while end < count and not any(different(place, end) for place in range(begin, end)):
            end += 1
        if not found or end > found[-1].stop:
            found.append(range(begin, end))
    return found
