"""A fair clock: the same engine with and without its drafter, interleaved in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from specdec.generator import Prompt, SpeculativeGenerator
from specdec.results import Generation, StreamEvent
from specdec.sampling import SamplingParams
from specdec.tracking.metrics import DecodingStats

WARM_UP = SamplingParams(max_tokens=4)


@dataclass(frozen=True)
class Pair:
    """One prompt decoded both ways.

    Args:
        label: what kind of prompt it is.
        plain, speculative: what came of it.
    """

    label: str
    plain: Generation
    speculative: Generation

    @property
    def identical(self) -> bool:
        """Whether both gave the same tokens."""
        return self.plain.token_ids == self.speculative.token_ids

    @property
    def speedup(self) -> float:
        """Tokens per second with the drafter over without; prefill is not in it."""
        plain = self.plain.stats.tokens_per_second
        return self.speculative.stats.tokens_per_second / plain if plain else 0.0


@dataclass(frozen=True)
class Comparison:
    """All prompts of one run."""

    pairs: Sequence[Pair]

    @property
    def plain(self) -> DecodingStats:
        """Totals without the drafter."""
        return DecodingStats.total(pair.plain.stats for pair in self.pairs)

    @property
    def speculative(self) -> DecodingStats:
        """Totals with it."""
        return DecodingStats.total(pair.speculative.stats for pair in self.pairs)

    @property
    def num_identical(self) -> int:
        """Prompts for which both gave the same tokens."""
        return sum(pair.identical for pair in self.pairs)

    @property
    def speedup(self) -> float:
        """Ratio of total tokens per second."""
        plain = self.plain.tokens_per_second
        return self.speculative.tokens_per_second / plain if plain else 0.0

    @property
    def spread(self) -> tuple[float, float, float]:
        """Smallest, median and largest speedup of a prompt."""
        ratios = [pair.speedup for pair in self.pairs]
        return min(ratios), median(ratios), max(ratios)


def credible(speedup: float, tau: float) -> bool:
    """Whether a speedup can be true: a pass with more rows is not faster, so it cannot exceed tokens per pass."""
    return speedup <= tau


def compare(
    generator: SpeculativeGenerator,
    prompts: Iterable[tuple[str, Prompt]],
    params: SamplingParams,
    on_start: Callable[[str, Prompt], None] = lambda label, prompt: None,
    on_event: Callable[[StreamEvent], None] = lambda event: None,
) -> Comparison:
    """Decodes every prompt plainly and with the generator's drafter, one after the other, taking turns at going first.

    Args:
        generator: carries the drafter and the rule under test.
        prompts: (label, prompt) pairs.
        params: for both; give a seed when sampling, or the outputs cannot be compared.
        on_start: told of each prompt before its speculative run.
        on_event: told of each step of the speculative runs; its time is not counted.
    """
    plain = generator.with_drafter("none")
    for one in (plain, generator):
        one.generate([[1]], WARM_UP)
    pairs = []
    for index, (label, prompt) in enumerate(prompts):
        results: dict[str, Generation] = {}
        for side in ("plain", "speculative") if index % 2 == 0 else ("speculative", "plain"):
            if side == "plain":
                [results[side]] = plain.generate([prompt], params)
                continue
            on_start(label, prompt)
            for event in generator.stream([prompt], params):
                on_event(event)
                if event.generation is not None:
                    results[side] = event.generation
        pairs.append(Pair(label, results["plain"], results["speculative"]))
    return Comparison(pairs)
