"""What every study is given."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from specdec import SamplingParams, SpeculativeGenerator
from specdec.analysis.traces import Trace, record
from specdec.models.loading import LoadedModel, load
from specdec.prompts import PromptRecord, load_prompts
from specdec.prompts.subsets import choose

LAYERS = 24
"""Of the embedded target's 30, after which it drafts for itself: a drafter of middling quality."""
BETTER = 29
"""The best drafter of that kind, whatever it costs: for acceptance alone."""
TEXTS, TOKENS = 12, 24


@dataclass(frozen=True)
class Options:
    """Sizes.

    Args:
        quick: few prompts and tokens, to see that everything works.
        data: prompt file; our own prompts if left out.
        limit: prompts of the studies that decode, at most.
        tokens: of answers that each head learns from, in each of its epochs.
        kept: folder of what is trained, with which an interrupted study goes on.
        device: that heads are trained on.
        jobs: heads that are trained at a time, each by a process of its own.
    """

    quick: bool = False
    data: Path | None = None
    limit: int = 12
    tokens: int = 200_000
    kept: Path = Path("runs/reproduce")
    device: str = "cpu"
    jobs: int = 1

    @property
    def words(self) -> str:
        """What was given on the command line, without the folders of this machine."""
        words = ["--quick"] if self.quick else []
        words += [] if self.data is None else ["--data", self.data.name]
        words += [] if self.limit == Options.limit else ["--limit", str(self.limit)]
        words += [] if self.tokens == Options.tokens else ["--tokens", str(self.tokens)]
        words += [] if self.device == Options.device else ["--device", self.device]
        return shlex.join(words)

    @property
    def records(self) -> list[PromptRecord]:
        """The prompts of the studies that decode, evenly from all categories."""
        return choose(load_prompts(self.data), 2 if self.quick else self.limit)

    @cached_property
    def target(self) -> LoadedModel:
        """In float32, for acceptance."""
        return load()

    @cached_property
    def trace(self) -> Trace:
        """Of a middling drafter, shared by the studies of acceptance."""
        return self.recorded(LAYERS)

    def recorded(self, layers: int) -> Trace:
        """Drafts of eight tokens at every position of texts sampled at temperature 1, whole rows.

        Prompts are gone through as often as it takes; each text has a seed of its own.

        Args:
            layers: after which the target drafts for itself.
        """
        options = {"num_layers": layers, "num_draft_tokens": 8}
        count, length = (2, 12) if self.quick else (TEXTS, TOKENS)
        with SpeculativeGenerator(self.target, "early_exit", "token", options) as generator:
            prompts = [
                generator.encode([{"role": "user", "content": self.records[text % len(self.records)].prompt}])
                for text in range(count)
            ]
            params = [SamplingParams(max_tokens=length, temperature=1.0, seed=seed) for seed in range(count)]
            return record(generator.loop, prompts, params, every_position=True)
