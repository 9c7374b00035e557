"""How many draft tokens any lossless rule can accept: optimal transport between draft and target.

A rule is a coupling of the drafted candidates with the emitted token, whose law must be p. At one node it accepts when
the emitted token is among the candidates, so the best coupling is a maximum flow from candidate sets to tokens, and its
value is given by its minimum cut (Sun et al. 2023 for the linear program; Hu et al. 2025 for the subset formula).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.verify.rational import ONE, ZERO, Row

CandidateLaw = Mapping[tuple[int, ...], Fraction]
"""Candidates of one node → probability; their order does not matter here."""


def subset_bound(p: Row, candidates: CandidateLaw) -> Fraction:
    """α* = 1 + min over sets H of tokens of [p(H) - Pr(all candidates in H)].

    Args:
        p: the target's distribution over V tokens; the time is O(2^V).
        candidates: the law of the candidates, summing to one.

    Raises:
        ConfigError: if either does not sum to one.
    """
    _require_distributions(p, candidates)
    masses: dict[frozenset[int], Fraction] = {}
    for tokens, mass in candidates.items():
        masses[frozenset(tokens)] = masses.get(frozenset(tokens), ZERO) + mass
    lowest = ZERO
    for chosen in product((False, True), repeat=len(p)):
        inside = {token for token, taken in enumerate(chosen) if taken}
        covered = sum((mass for tokens, mass in masses.items() if tokens <= inside), ZERO)
        lowest = min(lowest, sum((p[token] for token in inside), ZERO) - covered)
    return ONE + lowest


def iid_bound(p: Tensor, q: Tensor, k: int) -> float:
    """α* for k independent draws from q over a large vocabulary, in O(V log V).

    The convex Q^k is a supremum of lines, Q^k = sup_c [cQ - φ(c)], so the minimum over H of p(H) - q(H)^k is the
    minimum over c and H of p(H) - c·q(H) + φ(c); for given c the best H is {p/q < c}. Hence only initial segments of
    the tokens in the order of p/q need to be tried.

    Args:
        p, q: float64 [V] distributions.
        k: candidates, at least 1.
    """
    if k < 1:
        raise ConfigError(f"k={k} candidates: give at least 1.")
    order = torch.argsort(torch.where(q > 0, p / q, torch.inf))
    gap = p[order].cumsum(0) - q[order].cumsum(0) ** k
    return 1.0 + min(0.0, float(gap.min()))


def joint_prefix_bound(
    p: Callable[[tuple[int, ...]], Row], q: Callable[[tuple[int, ...]], Row], num_draft_tokens: int
) -> Fraction:
    """Σ over i ≤ γ and strings of min(p(x₁…x_i), q(x₁…x_i)): accepted tokens of one drafted chain, at most.

    A rule that keeps i tokens makes the first i drafted and emitted tokens coincide, which is no more probable than
    that.

    Args:
        p, q: prefix → distribution.
        num_draft_tokens: γ; the time is O(V^γ).
    """
    total = ZERO
    strings: dict[tuple[int, ...], tuple[Fraction, Fraction]] = {(): (ONE, ONE)}
    for _ in range(num_draft_tokens):
        longer = {}
        for prefix, (mass_p, mass_q) in strings.items():
            for token, (a, b) in enumerate(zip(p(prefix), q(prefix), strict=True)):
                if a and b:
                    string = (*prefix, token)
                    longer[string] = (mass_p * a, mass_q * b)
        strings = longer
        total += sum((min(a, b) for a, b in strings.values()), ZERO)
    return total


def _require_distributions(p: Row, candidates: CandidateLaw) -> None:
    if sum(p) != 1 or sum(candidates.values()) != 1:
        raise ConfigError(
            f"p sums to {sum(p)}, the candidates' law to {sum(candidates.values())}. Normalise both, as fractions."
        )
