"""A fair clock: the same engine with and without its drafter, interleaved in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from specdec.engine.outputs import Generation, StreamEvent
from specdec.generator import SpeculativeGenerator
from specdec.measure import metrics
from specdec.prompts.entry import Prompt
from specdec.sampling import SamplingParams
from specdec.stats import DecodingStats

WARM_UP = SamplingParams(max_tokens=4)


@dataclass(frozen=True)
class Pair:
    """One prompt decoded both ways.

    Args:
        label: what kind of prompt it is.
        plain, speculative: the two outputs.
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
        return metrics.speedup([self.plain.stats], [self.speculative.stats])


@dataclass(frozen=True)
class Comparison:
    """All prompts of one run.

    Args:
        pairs: of its prompts.
        comparable: whether both sides must give the same tokens: greedy, or a rule that follows plain decoding.
    """

    pairs: Sequence[Pair]
    comparable: bool = True

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
        return metrics.speedup(*self.sides)

    @property
    def credible(self) -> bool:
        """Whether the speedup can be true."""
        return metrics.credible(*self.sides)

    @property
    def sides(self) -> tuple[list[DecodingStats], list[DecodingStats]]:
        """Without the drafter and with it, prompt by prompt."""
        return [pair.plain.stats for pair in self.pairs], [pair.speculative.stats for pair in self.pairs]

    @property
    def spread(self) -> tuple[float, float, float]:
        """Smallest, median and largest speedup of a prompt."""
        ratios = [pair.speedup for pair in self.pairs]
        return min(ratios), median(ratios), max(ratios)


class Duel:
    """Decodes the same prompts plainly and with a drafter, in one process and in turns.

    Args:
        generator: carries the drafter and the rule under test.
        plain: whether there is a plain side at all.
    """

    def __init__(self, generator: SpeculativeGenerator, plain: bool = True) -> None:
        self.generator, self.plain = generator, generator.with_drafter("none") if plain else None
        for one in (self.plain, generator):
            if one is not None:
                one.generate([[1]], WARM_UP)

    def round(
        self,
        turn: int,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams],
        on_start: Callable[[], None] = lambda: None,
        on_event: Callable[[StreamEvent], None] = lambda event: None,
        plain_prompts: Sequence[Prompt] | None = None,
    ) -> tuple[list[Generation] | None, list[Generation]]:
        """Both sides once, a batch each; in even turns the plain side goes first.

        Args:
            turn: how many rounds there were before.
            prompts: decoded together.
            params: for all, or one each; give a seed when sampling, or the outputs cannot be compared.
            on_start: called before the speculative side begins.
            on_event: called with each step of the speculative side; its time is not counted.
            plain_prompts: of the plain side, if they differ: a chat holds what its own side answered before.

        Returns:
            Generations of the plain side, if there is one, and of the speculative side.
        """
        plain: list[Generation] | None = None
        plain_prompts = prompts if plain_prompts is None else plain_prompts
        if self.plain is not None and turn % 2 == 0:
            plain = self.plain.generate(plain_prompts, params, progress=False)
        on_start()
        speculative: dict[int, Generation] = {}
        for event in self.generator.stream(prompts, params):
            on_event(event)
            if event.generation is not None:
                speculative[event.index] = event.generation
        if self.plain is not None and turn % 2 == 1:
            plain = self.plain.generate(plain_prompts, params, progress=False)
        return plain, [speculative[index] for index in range(len(prompts))]


def compare(
    generator: SpeculativeGenerator,
    prompts: Iterable[tuple[str, Prompt]],
    params: SamplingParams,
    on_start: Callable[[str, Prompt], None] = lambda label, prompt: None,
    on_event: Callable[[StreamEvent], None] = lambda event: None,
    comparable: bool = True,
) -> Comparison:
    """Decodes every prompt plainly and with the generator's drafter, one after the other, taking turns at going first.

    Args:
        generator: carries the drafter and the rule under test.
        prompts: (label, prompt) pairs.
        params: for both; give a seed when sampling, or the outputs cannot be compared.
        on_start: called with each prompt before its speculative run.
        on_event: called with each step of the speculative runs; its time is not counted.
        comparable: see `Comparison`.
    """
    duel = Duel(generator)
    pairs = []
    for turn, (label, prompt) in enumerate(prompts):
        plain, [speculative] = duel.round(turn, [prompt], params, partial(on_start, label, prompt), on_event)
        assert plain is not None
        pairs.append(Pair(label, plain[0], speculative))
    return Comparison(pairs, comparable)
