"""The sequential test: its error rate, and its power."""

from __future__ import annotations

import math

import numpy as np

from specdec.proof.evidence import Evidence

LAW = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}


def longest_run(p: list[float], seed: int, samples: int, error_rate: float) -> bool:
    """Whether the law is ever rejected."""
    evidence = Evidence(LAW)
    for i, outcome in enumerate(np.random.default_rng(seed).choice(4, samples, p=p)):
        evidence.add(int(outcome))
        if i % 10 == 0 and evidence.rejects(error_rate):
            return True
    return False


def test_a_true_law_is_seldom_rejected_however_often_one_looks() -> None:
    """At rate 0.05 at most 10 of 200 runs are expected; 27 or more would have probability below 1e-5 at that rate."""
    assert sum(longest_run(list(LAW.values()), seed, 500, 0.05) for seed in range(200)) < 27


def test_a_wrong_law_is_rejected_at_a_small_error_rate() -> None:
    assert all(longest_run([0.55, 0.27, 0.13, 0.05], seed, 20_000, 1e-6) for seed in range(3))


def test_what_cannot_happen_is_proof() -> None:
    evidence = Evidence(LAW)
    evidence.add(4)
    assert evidence.log_e_value() == math.inf


def test_no_sample_is_no_evidence() -> None:
    assert abs(Evidence(LAW).log_e_value()) < 1e-12
