"""Two races run with the same exponential clocks: the joint law of a Gumbel-coupled draft and emission.

With E_i = exp(-g_i) standard exponentials, argmax(log p + g) = argmin E_i/p_i, and the k largest of log q + g are the
k smallest of E_i/q_i. Token b wins the first race with probability p_b, at a time t that is standard exponential and
independent of b. Then E_b = p_b·t, and by lack of memory every other E_i = p_i·t + a fresh exponential. In the second
race, with time measured in units of t, token b therefore arrives at p_b/q_b, and every other token starts at p_i/q_i
and arrives at the rate q_i·t. Given t, the order of arrival is a Markov chain whose probabilities are sums of
c·exp(-λt); integrated over t they are rational.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from math import prod

from specdec.verify.rational import ONE, ZERO, Row

Exponentials = dict[Fraction, Fraction]
"""λ → c of the function Σ c·exp(-λt)."""
States = dict[tuple[int, ...], Exponentials]
"""Order of the arrivals so far → its probability, as a function of t."""


@lru_cache(maxsize=4096)
def race_law(p: Row, q: Row, k: int) -> dict[tuple[int, ...], Row]:
    """Pr(the first k of the race with rates q are `tokens`, in this order, and the race with rates p is won by b).

    Args:
        p, q: distributions over the same V tokens.
        k: candidates; fewer come out if q has a smaller support.

    Returns:
        tokens → the probability for each b.
    """
    k = min(k, sum(mass > 0 for mass in q))
    joint: dict[tuple[int, ...], list[Fraction]] = {}
    for winner, mass in enumerate(p):
        if not mass:
            continue
        for tokens, function in _arrivals(p, q, k, winner).items():
            row = joint.setdefault(tokens, [ZERO] * len(p))
            row[winner] = mass * sum((c / (1 + rate) for rate, c in function.items()), ZERO)
    return {tokens: tuple(row) for tokens, row in joint.items()}


def _arrivals(p: Row, q: Row, k: int, winner: int) -> States:
    """Order of the first k arrivals of the second race, given who won the first, as functions of t."""
    starts = {i: p[i] / q[i] for i in range(len(q)) if q[i]}
    times = sorted(set(starts.values()))
    states: States = {(): {ZERO: ONE}}
    for index, now in enumerate(times):
        if starts.get(winner) == now:
            states = _with_arrival(states, winner, k)
        running = [i for i, start in starts.items() if start <= now and i != winner]
        span = times[index + 1] - now if index + 1 < len(times) else None
        states = _advance(states, running, q, k, span)
    return states


def _with_arrival(states: States, token: int, k: int) -> States:
    """`token` arrives now, unless the race is over."""
    moved: States = {}
    for order, function in states.items():
        _add(moved, order if len(order) == k else (*order, token), function, ONE, ZERO)
    return moved


def _advance(states: States, running: list[int], q: Row, k: int, span: Fraction | None) -> States:
    """Lets `running` tokens arrive for a while; `span` None is for ever.

    In time T the arrivals i₁…i_m, and no more, have probability Π q_i · Σ_j exp(-R_j·T) / Π_{l≠j} (R_l - R_j), where
    R_j is the total rate after j arrivals, and zero once the race is over.
    """
    after: States = {}
    for order, function in states.items():
        here = [i for i in running if i not in order]
        for m in range(min(k - len(order), len(here)) + 1):
            over = len(order) + m == k
            if span is None and not over:
                continue
            for arriving in permutations(here, m):
                rates = [sum((q[i] for i in here if i not in arriving[:j]), ZERO) for j in range(m + 1)]
                if over:
                    rates[m] = ZERO
                weight = prod((q[i] for i in arriving), start=ONE)
                for j, rate in enumerate(rates):
                    if span is None and rate:
                        continue
                    apart = prod((other - rate for n, other in enumerate(rates) if n != j), start=ONE)
                    _add(after, (*order, *arriving), function, weight / apart, rate * (span or ZERO))
    return after


def _add(states: States, order: tuple[int, ...], function: Exponentials, c: Fraction, rate: Fraction) -> None:
    """states[order] += c · exp(-rate·t) · function."""
    into = states.setdefault(order, {})
    for exponent, factor in function.items():
        into[exponent + rate] = into.get(exponent + rate, ZERO) + c * factor
