"""Every number that is reported, defined once (docs/metrics.md explains them to readers).

Symbols: τ (`mean_accepted_length`) is tokens emitted per target pass, the correction or bonus token included; plain
decoding has τ = 1. α (`acceptance_rate`) is the share of tested draft positions that were accepted; a position is
tested if all positions before it were accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES, CONFIDENCE = 2000, 0.95
"""Of the bootstrap."""


@dataclass
class DecodingStats:
    """Counts and times of one request, or of several added up.

    Times are in seconds. A step that serves several requests is divided among them by their rows in the pass, so that
    the sum over requests is the time that passed.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    passes: int = 0
    """Target passes that emitted tokens (a pass that only prefills is not one)."""
    drafted_tokens: int = 0
    """Draft nodes that were verified."""
    tested_at: list[int] = field(default_factory=list)
    """tested_at[i]: steps in which draft position i was tested."""
    accepted_at: list[int] = field(default_factory=list)
    """accepted_at[i]: steps in which draft position i was accepted."""
    preemptions: int = 0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    host_seconds: float = 0.0

    def record_step(self, emitted: int, drafted: int, tested: int, accepted: int) -> None:
        """Adds one verified step.

        Args:
            emitted: tokens that were appended to the output.
            drafted: draft nodes that were verified.
            tested, accepted: draft positions, counted from the first.
        """
        self.passes += 1
        self.output_tokens += emitted
        self.drafted_tokens += drafted
        for counts, reached in ((self.tested_at, tested), (self.accepted_at, accepted)):
            counts.extend([0] * (tested - len(counts)))
            for position in range(reached):
                counts[position] += 1

    @property
    def accepted_tokens(self) -> int:
        """Draft tokens that were accepted."""
        return sum(self.accepted_at)

    @property
    def mean_accepted_length(self) -> float:
        """τ, tokens per target pass; 0 before the first."""
        return self.output_tokens / self.passes if self.passes else 0.0

    @property
    def acceptance_rate(self) -> float:
        """α, accepted / tested draft positions; 0 if none was tested."""
        tested = sum(self.tested_at)
        return self.accepted_tokens / tested if tested else 0.0

    @property
    def acceptance_by_position(self) -> list[float]:
        """Share accepted at each draft position, given that all before it were accepted."""
        return [a / t if t else 0.0 for a, t in zip(self.accepted_at, self.tested_at, strict=True)]

    @property
    def cumulative_acceptance(self) -> list[float]:
        """Share of the steps with a draft in which this position and all before it were accepted."""
        return [accepted / self.tested_at[0] for accepted in self.accepted_at] if self.tested_at else []

    @property
    def acceptance_histogram(self) -> list[int]:
        """Steps in which exactly 0, 1, 2, … draft tokens were accepted; those without a draft are at 0."""
        reached = [self.passes, *self.accepted_at, 0]
        counts = [here - beyond for here, beyond in pairwise(reached)]
        while len(counts) > 1 and counts[-1] == 0:
            counts.pop()
        return counts

    @property
    def wasted_tokens(self) -> int:
        """Draft tokens that were verified for nothing."""
        return self.drafted_tokens - self.accepted_tokens

    @property
    def decode_seconds(self) -> float:
        """Time of the steps that emitted tokens: drafting, verifying and the host's work around them."""
        return self.draft_seconds + self.verify_seconds + self.host_seconds

    @property
    def tokens_per_second(self) -> float:
        """Output tokens per second of decoding; the prompt's prefill is not in it."""
        return self.output_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def __add__(self, other: DecodingStats) -> DecodingStats:
        """Counts and times of both."""
        added: dict[str, Any] = {}
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            added[name] = _longer_sum(mine, theirs) if isinstance(mine, list) else mine + theirs
        return DecodingStats(**added)

    @classmethod
    def total(cls, stats: Iterable[DecodingStats]) -> DecodingStats:
        """The sum of any number of them."""
        return sum(stats, cls())


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
    chosen = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = ratio(*np.moveaxis(counts[chosen].sum(axis=1), 0, -1))
    low, high = np.quantile(np.nan_to_num(ratios, posinf=0.0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


TOKENS, PASSES, SECONDS = range(3)


def _counts(plain: Sequence[DecodingStats], speculative: Sequence[DecodingStats]) -> Array:
    """[prompts, 2, 3]"""
    pairs = zip(plain, speculative, strict=True)
    return np.array([[(s.output_tokens, s.passes, s.decode_seconds) for s in pair] for pair in pairs], np.float64)


def cost_ratio(plain: DecodingStats, speculative: DecodingStats) -> float | None:
    """c: time of one draft token over that of one plain step (Leviathan et al. 2023); None without drafts."""
    if not speculative.drafted_tokens or not plain.passes:
        return None
    per_token = speculative.draft_seconds / speculative.drafted_tokens
    return per_token / ((plain.verify_seconds + plain.host_seconds) / plain.passes)


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


def _longer_sum(a: list[int], b: list[int]) -> list[int]:
    size = max(len(a), len(b))
    return [x + y for x, y in zip(a + [0] * (size - len(a)), b + [0] * (size - len(b)), strict=True)]
