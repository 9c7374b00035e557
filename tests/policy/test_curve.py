"""The cost curve, by exact fractions."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from specdec.policy.curve import CostCurve, LiveCurve


def straight(curve: CostCurve, rows: int) -> Fraction:
    """Seconds by straight lines between points, and beyond the last two."""
    points = [(Fraction(n), Fraction(s)) for n, s in zip(curve.rows, curve.seconds, strict=True)]
    below = max([i for i, (n, _) in enumerate(points[:-1]) if n < rows], default=0)
    (n0, s0), (n1, s1) = points[below : below + 2]
    return s0 + (s1 - s0) * (rows - n0) / (n1 - n0)


@pytest.mark.parametrize("seed", range(20))
def test_seconds_of_many_passes_are_those_of_each(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randrange(2, 9)
    curve = CostCurve(
        tuple(sorted(draw.sample(range(1, 70), count))), tuple(sorted(draw.random() for _ in range(count)))
    )
    for most in (0, 1, 7, 40, 90):
        seconds = curve.up_to(most)
        assert seconds == [curve(rows, 0) for rows in range(most + 1)]
        assert seconds == pytest.approx([float(straight(curve, rows)) for rows in range(most + 1)], abs=1e-12)


@pytest.mark.parametrize(("rows", "point"), [(1, 1), (2, 2), (3, 2), (6, 4), (7, 8), (10, 8), (11, 12), (20, 16)])
def test_a_pass_counts_for_the_nearest_point_and_between_two_for_the_smaller(rows: int, point: int) -> None:
    curve = LiveCurve(CostCurve((1, 32), (1.0, 32.0)))
    curve.observe(rows, 1.0)
    assert list(curve._seen) == [point]
