"""The prompts of a batch on their way: what is asked and answered turn by turn, and what every step did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import fmean

from specdec.cache.layout import CacheUsage
from specdec.engine.outputs import Generation, StreamEvent
from specdec.generator import SpeculativeGenerator
from specdec.measure.rows import PromptRow, StepRow, TurnRow
from specdec.prompts import PromptRecord
from specdec.tracking import Tracker
from specdec.verify.base import Rule

HELD_EVERY = 16
"""Steps of a prompt from one look at the drafters' memory to the next."""


@dataclass
class Conversation:
    """One prompt: the turns that are answered, and what happened on the way.

    Args:
        index: its place in the run's prompts.
        record: what is asked.
    """

    index: int
    record: PromptRecord
    turns: list[TurnRow] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    arrivals: list[list[float]] = field(default_factory=list)
    """Of each turn: when tokens came, in seconds after its batch began."""
    usage: list[CacheUsage] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether a turn is left."""
        return len(self.turns) < len(self.record.turns)

    def said(self, plain: bool = False) -> list[str]:
        """What was asked and answered so far, and what is asked next; with the answers of one side."""
        answers = [(turn.plain_text if plain else turn.text) or "" for turn in self.turns]
        before = chain.from_iterable(zip(self.record.turns, answers, strict=False))
        return [*before, self.record.turns[len(self.turns)]]

    def answered(self, generation: Generation, plain: Generation | None) -> None:
        """Both sides have answered the turn."""
        self.seeds.append(generation.seed)
        self.turns.append(
            TurnRow(
                prompt=self.record.turns[len(self.turns)],
                text=generation.text,
                token_ids=generation.token_ids,
                finish_reason=generation.finish_reason,
                stats=generation.stats,
                plain_text=None if plain is None else plain.text,
                plain_token_ids=None if plain is None else plain.token_ids,
                plain_stats=None if plain is None else plain.stats,
            )
        )

    def row(self, rule: Rule) -> PromptRow:
        """What is kept of it, once all turns are answered."""
        return PromptRow(
            index=self.index,
            question_id=self.record.question_id,
            category=self.record.category,
            kind=self.record.kind,
            turns=self.turns,
            seed=self.seeds[0],
            comparable=rule.draft_invariant,
            ttft_seconds=self.arrivals[0][0],
            gaps_seconds=[later - earlier for times in self.arrivals for earlier, later in pairwise(times)],
            kv_occupancy=_mean([usage.allocated_slots / usage.total_slots for usage in self.usage]),
            kv_waste=_mean([usage.waste for usage in self.usage]),
            steps=self.steps,
        )


class Watch:
    """Follows the speculative side of one turn of a batch, by the engine's own clock.

    Args:
        generator: decodes it.
        conversations: of the batch.
        prompt_tokens: of each, how many tokens it reads.
        tracker: gets every step.
    """

    def __init__(
        self,
        generator: SpeculativeGenerator,
        conversations: Sequence[Conversation],
        prompt_tokens: Sequence[int],
        tracker: Tracker,
    ) -> None:
        self._engine, self._tokenizer, self._tracker = generator.engine, generator.tokenizer, tracker
        self._conversations, self._lengths = conversations, list(prompt_tokens)
        self._began = 0.0
        self.held = 0
        """Most bytes that the drafters held, as often as was looked."""
        for conversation in conversations:
            conversation.arrivals.append([])

    def start(self) -> None:
        """The batch begins."""
        self._began = self._engine.busy_seconds

    def event(self, event: StreamEvent) -> None:
        """One prompt's part of a step."""
        if event.generation is not None:
            return
        conversation = self._conversations[event.index]
        conversation.arrivals[-1].append(self._engine.busy_seconds - self._began)
        usage = self._engine.cache.usage()
        if usage.allocated_slots:  # the last step of a batch has given everything back
            conversation.usage.append(usage)
        step = self._step(event, conversation)
        conversation.steps.append(step)
        if step.step % HELD_EVERY == 0:
            self.held = max(self.held, self._engine.drafter_bytes)
        self._tracker.step(
            {
                "drafted": step.drafted,
                "tested": step.tested,
                "accepted": step.accepted,
                "emitted": len(event.token_ids),
                "kv_occupancy": usage.allocated_slots / usage.total_slots,
            }
        )

    def _step(self, event: StreamEvent, conversation: Conversation) -> StepRow:
        at, tree, path = event.index, event.draft, event.path
        refused = tree.refused(path)
        row = StepRow(
            index=conversation.index,
            turn=len(conversation.turns),
            step=len(conversation.steps),
            anchor=self._lengths[at],
            drafted=len(tree),
            tested=len(path) + bool(refused),
            accepted=len(path),
            texts=[piece.text for piece in event.pieces],
            proposed=[piece.drafted for piece in event.pieces],
            rejected=self._tokenizer.decode([tree.tokens[refused[0]]]) if refused else None,
            drafter=event.drafter,
        )
        self._lengths[at] += len(event.token_ids)
        return row


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
