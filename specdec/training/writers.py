"""Who writes texts: the target, by our engine or in large batches by plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from specdec.checks import number, settle, whole
from specdec.generator import SpeculativeGenerator
from specdec.sampling import SamplingParams

Tokens = list[int]


@dataclass(frozen=True)
class Way:
    """How one text is drawn.

    Args:
        max_tokens: it ends there, if not with an end token, which stays in it.
        temperature: 0 for the likeliest tokens.
        top_p: the draw is among the likeliest tokens that have this much probability together.
        seed: of the draw.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        settle(
            self,
            {
                "max_tokens": whole(1),
                "temperature": number(lambda value: 0 <= value <= 10, "a number from 0 to 10"),
                "top_p": number(lambda value: 0 < value <= 1, "a number above 0, at most 1"),
                "seed": whole(0, 2**63 - 1),
            },
        )


class Writer(Protocol):
    """Continues prompts."""

    def write(self, prompts: Sequence[Sequence[int]], ways: Sequence[Way]) -> list[Tokens]:
        """New token ids of each prompt, an end token last if it came; the same for the same arguments."""


class LateWriter:
    """A writer that is made when it is first needed, which it may never be."""

    def __init__(self, make: Callable[[], Writer]) -> None:
        self._make = make
        self._writer: Writer | None = None

    def write(self, prompts: Sequence[Sequence[int]], ways: Sequence[Way]) -> list[Tokens]:
        """See `Writer.write`."""
        if self._writer is None:
            self._writer = self._make()
        return self._writer.write(prompts, ways)


class EngineWriter:
    """Texts by an engine: one request each, as many at once as it takes.

    Args:
        generator: over the target. It is best without a drafter at a large batch.
    """

    def __init__(self, generator: SpeculativeGenerator) -> None:
        self._generator = generator

    def write(self, prompts: Sequence[Sequence[int]], ways: Sequence[Way]) -> list[Tokens]:
        """See `Writer.write`."""
        params = [
            SamplingParams(max_tokens=way.max_tokens, temperature=way.temperature, top_p=way.top_p, seed=way.seed)
            for way in ways
        ]
        return [
            list(one.token_ids) for one in self._generator.generate(list(map(list, prompts)), params, progress=False)
        ]
