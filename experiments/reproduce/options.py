"""What every study is given."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Options:
    """Sizes.

    Args:
        quick: few prompts and tokens, to see that everything works.
        data: prompt file; our own prompts if left out.
        prompts: at most so many are decoded.
        texts: of the trace, each with a seed of its own, the prompts in turns.
    """

    quick: bool = False
    data: Path | None = None
    prompts: int = 12
    texts: int = 12

    @property
    def records(self) -> list[PromptRecord]:
        """The prompts of the studies that decode, evenly from all categories."""
        return choose(load_prompts(self.data), 2 if self.quick else self.prompts)

    @cached_property
    def target(self) -> LoadedModel:
        """In float32, for acceptance."""
        return load()

    @cached_property
    def trace(self) -> Trace:
        """Of drafts of eight tokens at every position of texts sampled at temperature 1; whole rows, 1 GB in all."""
        options = {"num_layers": LAYERS, "num_draft_tokens": 8}
        with SpeculativeGenerator(self.target, "early_exit", "token", options) as generator:
            records, count = self.records, 2 if self.quick else self.texts
            chats = [[{"role": "user", "content": records[i % len(records)].prompt}] for i in range(count)]
            tokens = 12 if self.quick else 24
            params = [SamplingParams(max_tokens=tokens, temperature=1.0, seed=seed) for seed in range(count)]
            return record(generator.engine, [generator.encode(chat) for chat in chats], params, every_position=True)
