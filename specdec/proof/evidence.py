"""A sequential test with a stated error rate: evidence that samples do not follow a stated law.

For each outcome, its count is compared with the stated probability by a likelihood ratio, averaged over a spread of
alternatives. Each ratio is an e-process (a non-negative martingale that starts at 1 if the law is true), and so is
their mean. By Ville's inequality it ever exceeds 1/ε with probability at most ε: one may look after every sample, and
stop.
Source: Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

CONCENTRATIONS = (10.0, 100.0, 1000.0, 10000.0)
"""Alternatives Beta(c·p, c·(1 - p)): from far away from p to close by."""


class Evidence:
    """Collects samples against a law.

    Args:
        law: outcome → probability, summing to one.
    """

    def __init__(self, law: Mapping[Hashable, float]) -> None:
        self._law = {outcome: float(p) for outcome, p in law.items() if p > 0}
        self._counts = dict.fromkeys(self._law, 0)
        self._total = 0
        self._impossible = False

    def add(self, outcome: Hashable) -> None:
        """Takes one sample. An outcome of probability zero is proof."""
        self._total += 1
        if outcome in self._counts:
            self._counts[outcome] += 1
        else:
            self._impossible = True

    def log_e_value(self) -> float:
        """Natural logarithm of the evidence so far; above log(1/ε) the law is rejected at error rate ε."""
        if self._impossible:
            return math.inf
        logs = [
            _log_beta_ratio(count, self._total, self._law[outcome], c)
            for outcome, count in self._counts.items()
            for c in CONCENTRATIONS
            if self._law[outcome] < 1
        ]
        if not logs:
            return 0.0
        top = max(logs)
        return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))

    def rejects(self, error_rate: float) -> bool:
        """Whether the law is rejected; if it is true, this ever happens with at most this probability."""
        return self.log_e_value() > -math.log(error_rate)


def _log_beta_ratio(count: int, total: int, p: float, c: float) -> float:
    """log of ∫ Binomial likelihood dBeta(cp, c(1-p)) over the likelihood at p."""
    a, b = c * p, c * (1 - p)
    mixture = _log_beta(a + count, b + total - count) - _log_beta(a, b)
    return mixture - count * math.log(p) - (total - count) * math.log1p(-p)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
