"""The law of code that asks for uniform random numbers, found by running it, without sampling.

What such code does is piecewise constant in every number that it asks for. The explorer finds the pieces by bisection,
and descends into each: the result is exact up to the resolution of the bisection, and has no statistical error.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import TypeVar, cast

from torch import Tensor

from specdec.randomness import RandomSource, Stream

T = TypeVar("T", bound=Hashable)
GRID = 12
"""Points at which each number is tried; a piece that lies between two of them, with the same behaviour on either side,
is missed. Its mass is then missing from the law, which shows as a deviation."""
EDGE = 1e-9
STEPS = 18
"""Bisections between two points: a border is found to 2**-18 / GRID."""
PROBES = 5


class NeedsNoise(Exception):
    """The code asked for a whole vector of noise, which cannot be explored."""


class _Scripted:
    """Answers the first distinct questions from a script and the rest by arithmetic on the question.

    Stands in for `RandomSource`: the same question gets the same answer, so that code which asks twice for one number
    does not get two.
    """

    def __init__(self, script: tuple[float, ...], filler: int) -> None:
        self._script, self._filler = script, filler
        self.asked: dict[tuple[int, ...], float] = {}

    def uniform(self, stream: Stream, position: int, anchor: int = 0, lane: int = 0) -> float:
        name = (stream, position, anchor, lane)
        if name not in self.asked:
            index = len(self.asked)
            beyond = index >= len(self._script)
            self.asked[name] = self._fill(index) if beyond else self._script[index]
        return self.asked[name]

    def gumbel(self, position: int, size: int) -> Tensor:
        raise NeedsNoise

    def _fill(self, index: int) -> float:
        """Some number of its own for every (probe, question): a point of a sequence that fills the square evenly."""
        return (0.5 + self._filler * 0.7548776662466927 + index * 0.5698402909980532) % 1.0


def explore(run: Callable[[RandomSource], T]) -> dict[T, float]:
    """Outcome → probability.

    Args:
        run: a function of its random numbers alone.

    Raises:
        NeedsNoise: if it asks for anything but uniforms.
    """
    law: dict[T, float] = {}

    def descend(script: tuple[float, ...], mass: float) -> None:
        outcome, num_asked = _attempt(run, script, 0)
        if num_asked <= len(script):
            law[outcome] = law.get(outcome, 0.0) + mass
            return
        for low, high in _pieces(lambda u: _behaviour(run, (*script, u))):
            descend((*script, (low + high) / 2), mass * (high - low))

    descend((), 1.0)
    return law


def _attempt(run: Callable[[RandomSource], T], script: tuple[float, ...], filler: int) -> tuple[T, int]:
    source = _Scripted(script, filler)
    outcome = run(cast(RandomSource, source))
    return outcome, len(source.asked)


def _behaviour(run: Callable[[RandomSource], T], script: tuple[float, ...]) -> tuple[tuple[T, int], ...]:
    """What follows the script, for a few ways to go on."""
    return tuple(_attempt(run, script, filler) for filler in range(PROBES))


def _pieces(behaviour: Callable[[float], Hashable]) -> list[tuple[float, float]]:
    """Intervals of (0, 1) on which the behaviour is constant."""
    # Both ends too: a refusal of small probability lies at the very end.
    points = [EDGE, *((i + 0.5) / GRID for i in range(GRID)), 1.0 - EDGE]
    known = [(u, behaviour(u)) for u in points]
    borders = [0.0]
    for (left, before), (right, after) in pairwise(known):
        borders += _borders(behaviour, left, before, right, after)
    borders.append(1.0)
    return list(pairwise(borders))


def _borders(
    behaviour: Callable[[float], Hashable], left: float, before: Hashable, right: float, after: Hashable, step: int = 0
) -> list[float]:
    """All changes between two points, also where a third behaviour lies between."""
    if before == after:
        return []
    middle = (left + right) / 2
    if step == STEPS:
        return [middle]
    between = behaviour(middle)
    return [
        *_borders(behaviour, left, before, middle, between, step + 1),
        *_borders(behaviour, middle, between, right, after, step + 1),
    ]
