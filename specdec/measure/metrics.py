"""Figures of whole runs: speedups, their intervals, predictions (docs/metrics.md explains them to readers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.stats import DecodingStats

Array = NDArray[np.float64]

RESAMPLES, CONFIDENCE = 2000, 0.95
"""Of the bootstrap."""


def speedup(plain: Sequence[DecodingStats], speculative: Sequence[DecodingStats]) -> float:
    """Tokens per second of decoding with the drafter over those without, all prompts of a run together; prefill is not
    in it. 0 if either side took no time."""
    sides = [DecodingStats.total(side).tokens_per_second for side in (plain, speculative)]
    return sides[1] / sides[0] if sides[0] else 0.0


def speedup_interval(
    plain: Sequence[DecodingStats], speculative: Sequence[DecodingStats], seed: int = 0
) -> tuple[float, float]:
    """The speedup's `bootstrap_interval` over prompts, which stay paired.

    Args:
        plain, speculative: of the same prompts, in the same order, at least one.
        seed: of the resampling.

    Returns:
        The ends of the 95 % interval.
    """
    return bootstrap_interval(
        _counts(plain, speculative),
        lambda before, after: (after[TOKENS] / after[SECONDS]) / (before[TOKENS] / before[SECONDS]),
        seed,
    )


def credible(plain: Sequence[DecodingStats], speculative: Sequence[DecodingStats], seed: int = 0) -> bool:
    """Whether the speedup can be true. A pass with more rows is not faster, so that speedup / τ, a plain step's time
    over a speculative one's, cannot exceed 1: false if its 95 % interval over prompts lies above. (One prompt has no
    interval: there its own ratio decides.) Arguments as for `speedup_interval`."""
    low, _ = bootstrap_interval(
        _counts(plain, speculative),
        lambda before, after: (before[SECONDS] / before[TOKENS]) / (after[SECONDS] / after[PASSES]),
        seed,
    )
    return low <= 1.0


def bootstrap_interval(counts: Array, ratio: Callable[..., Array], seed: int = 0) -> tuple[float, float]:
    """Where a ratio of sums would lie with other prompts of the same kind: a percentile bootstrap (Efron 1979).

    Args:
        counts: float64 [prompts, sides, ...], what is summed; at least one prompt, and its sides stay together.
        ratio: of the sums, one argument a side, [..., RESAMPLES] each, to [RESAMPLES]; one to nothing counts as 0.
        seed: of the resampling.

    Returns:
        The ends of the 95 % interval.
    """
    resampled = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = ratio(*np.moveaxis(counts[resampled].sum(axis=1), 0, -1))
    low, high = np.quantile(np.nan_to_num(ratios, posinf=0.0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


TOKENS, PASSES, SECONDS = range(3)


def _counts(plain: Sequence[DecodingStats], speculative: Sequence[DecodingStats]) -> Array:
    """[prompts, 2, 3]"""
    pairs = zip(plain, speculative, strict=True)
    return np.array([[(s.output_tokens, s.passes, s.decode_seconds) for s in pair] for pair in pairs], np.float64)


def speedup_with_prefill(plain: DecodingStats, speculative: DecodingStats) -> float | None:
    """The speedup of whole texts, what it takes to read their prompts included; None if either side took no time.

    Args:
        plain, speculative: totals over the same prompts.
    """
    rates = [
        side.output_tokens / whole if (whole := side.prefill_seconds + side.decode_seconds) else 0.0
        for side in (plain, speculative)
    ]
    return rates[1] / rates[0] if all(rates) else None


def cost_ratio(plain: DecodingStats, speculative: DecodingStats) -> float | None:
    """c: time of one draft token over that of one plain step (Leviathan et al. 2023); None without drafts."""
    if not speculative.drafted_tokens or not plain.passes:
        return None
    return speculative.draft_seconds / speculative.drafted_tokens / _plain_step(plain)


def drafting_cost(plain: DecodingStats, speculative: DecodingStats) -> float | None:
    """Drafting time of a step (the drafts, the policy, and what drafters do with a verdict) over a plain step's time;
    None without steps on both sides. What a drafter of 2 % takes away, whether its drafts are of use or not."""
    if not speculative.passes or not plain.passes:
        return None
    return speculative.draft_seconds / speculative.passes / _plain_step(plain)


def _plain_step(plain: DecodingStats) -> float:
    """Seconds."""
    return (plain.verify_seconds + plain.host_seconds) / plain.passes


def predicted_speedup(
    speculative: DecodingStats, rows: Sequence[int], curve: Callable[[int], float], batch: int = 1
) -> float:
    """What the cost of passes promises: τ · T(B) / (T_draft + T_verify + T_host), per step, where T_verify is the mean
    of T over the rows that steps really had (docs: the batch model).

    Args:
        speculative: the run; its time for drafts and host work is taken as measured.
        rows: draft nodes and one more, of every step of a sequence.
        curve: seconds of a pass by its rows.
        batch: sequences of a pass.
    """
    plain_host = speculative.host_seconds / speculative.passes
    verify = sum(curve(batch * count) for count in rows) / len(rows)
    aside = batch * (speculative.draft_seconds + speculative.host_seconds) / speculative.passes
    return speculative.mean_accepted_length * (curve(batch) + batch * plain_host) / (verify + aside)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, between neighbours in a straight line; 0 if there are none."""
    return float(np.quantile(np.asarray(values), share)) if len(values) else 0.0
