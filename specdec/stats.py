"""Counts and times of decoding: what a request adds up as it runs.

Symbols: τ (`mean_accepted_length`) is tokens emitted per target pass, the correction or bonus token included; plain
decoding has τ = 1. α (`acceptance_rate`) is the share of tested draft positions that were accepted; a position is
tested if all positions before it were accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

NOBODY = "none"
"""Stands for the drafter of a step that verified no draft."""


@dataclass
class DrafterStats:
    """What one drafter did for one request, or for several added up. Times in seconds.

    Args:
        name: of the drafter; `NOBODY` for the steps that verified no draft, whoever was asked for one.
        steps: in which its draft was verified.
        drafted_tokens, accepted_tokens: nodes of these drafts, and those that were accepted.
        output_tokens: tokens that these steps emitted.
        seconds: its part of `DecodingStats.draft_seconds`, for drafts that were verified and for those that were not.
    """

    name: str
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    @property
    def mean_accepted_length(self) -> float:
        """τ of its steps; 0 before the first."""
        return self.output_tokens / self.steps if self.steps else 0.0

    def add(self, other: DrafterStats) -> None:
        """Adds counts and times of the same drafter."""
        self.steps += other.steps
        self.drafted_tokens += other.drafted_tokens
        self.accepted_tokens += other.accepted_tokens
        self.output_tokens += other.output_tokens
        self.seconds += other.seconds


@dataclass
class DecodingStats:
    """Counts and times of one request, or of several added up.

    Times are in seconds. A step that serves several requests is divided among them by their rows in the pass, so that
    the sum over requests is the time that passed.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the cache, and did not run."""
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
    by_drafter: list[DrafterStats] = field(default_factory=list)
    """One entry a drafter that did anything, in the order in which they began; `steps` add up to `passes`."""

    def record_step(self, emitted: int, drafted: int, tested: int, accepted: int, drafter: str = NOBODY) -> None:
        """Adds one verified step.

        Args:
            emitted: tokens that were appended to the output.
            drafted: draft nodes that were verified.
            tested, accepted: draft positions, counted from the first.
            drafter: who drafted; without a draft the step is nobody's.
        """
        self.of(drafter if drafted else NOBODY).add(DrafterStats(drafter, 1, drafted, accepted, emitted))
        self.passes += 1
        self.output_tokens += emitted
        self.drafted_tokens += drafted
        for counts, reached in ((self.tested_at, tested), (self.accepted_at, accepted)):
            counts.extend([0] * (tested - len(counts)))
            for position in range(reached):
                counts[position] += 1

    def of(self, drafter: str) -> DrafterStats:
        """The entry of a drafter, made if it is not there."""
        for entry in self.by_drafter:
            if entry.name == drafter:
                return entry
        self.by_drafter.append(DrafterStats(drafter))
        return self.by_drafter[-1]

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
    def prefix_hit_rate(self) -> float:
        """Share of the prompt that was found in the cache; 0 without a prompt."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def saved_prefill_seconds(self) -> float:
        """What the tokens that were found in the cache would have taken at the pace of those of the prompt that ran; 0
        if none did."""
        ran = self.prompt_tokens - self.cached_tokens
        return self.cached_tokens * self.prefill_seconds / ran if ran else 0.0

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
            if name != "by_drafter":
                added[name] = _longer_sum(mine, theirs) if isinstance(mine, list) else mine + theirs
        total = DecodingStats(**added)
        for entry in (*self.by_drafter, *other.by_drafter):
            total.of(entry.name).add(entry)
        return total

    @classmethod
    def total(cls, stats: Iterable[DecodingStats]) -> DecodingStats:
        """The sum of any number of them."""
        return sum(stats, cls())


def _longer_sum(a: list[int], b: list[int]) -> list[int]:
    size = max(len(a), len(b))
    return [x + y for x, y in zip(a + [0] * (size - len(a)), b + [0] * (size - len(b)), strict=True)]
