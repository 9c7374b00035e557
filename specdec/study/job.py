"""One job: decode the prompts of a plan, keep every one in the run folder, and sum up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from specdec.analysis.traces import record, save_trace
from specdec.cache.layout import CacheUsage
from specdec.engine.outputs import Generation, StreamEvent
from specdec.generator import SpeculativeGenerator
from specdec.measure.compare import Duel
from specdec.measure.diagnostics import DraftDiagnostics
from specdec.measure.drafters import survival
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow, StepRow
from specdec.measure.runs import TRACE
from specdec.measure.summary import summarize
from specdec.policy.cost import measure
from specdec.prompts import PromptRecord
from specdec.proof.certificates import certificate_of
from specdec.study.config import TraceConfig
from specdec.study.plan import Plan
from specdec.study.sameness import drafts_nothing
from specdec.tracking import Tracker
from specdec.verify.base import Rule

HELD_EVERY = 16
"""Steps of a prompt from one look at the drafters' memory to the next."""


@dataclass(frozen=True)
class JobOptions:
    """What a job does besides decoding.

    Args:
        batch: prompts that are decoded together.
        baseline: decode plainly as well, in turns; what decodes plainly itself is its own baseline.
        certified: examine the rule, and keep its certificate.
        profile: measure what passes of n rows cost.
        trace: what to record of the first prompts.
    """

    batch: int = 1
    baseline: bool = True
    certified: bool = True
    profile: bool = True
    trace: TraceConfig = field(default_factory=TraceConfig)


def run_job(
    plan: Plan,
    options: JobOptions,
    records: Sequence[PromptRecord],
    folder: RunFolder,
    done: list[PromptRow],
    tracker: Tracker,
    on_prompt: Callable[[int], None] = lambda count: None,
) -> None:
    """Decodes what is not done yet, and writes the folder's tables and figures.

    Args:
        plan: what to decode, with what.
        options: what to do besides.
        records: all prompts of the job.
        folder: where it writes; it has begun.
        done: rows of an earlier try.
        tracker: gets every step and prompt; it has been started.
        on_prompt: called with the number of prompts that are done.

    Raises:
        SpecdecError: if the parts do not fit the model, or a request failed.
    """
    generator = plan.generator()
    prompts = [generator.encode(plan.prompt(record.prompt, generator)) for record in records]
    rows, held = list(done), generator.engine.drafter_bytes
    on_prompt(len(rows))
    itself = options.baseline and drafts_nothing(plan)
    duel = Duel(generator, options.baseline and not itself) if len(rows) < len(prompts) else None
    for start in range(len(rows), len(prompts), options.batch):
        assert duel is not None
        indices = range(start, min(start + options.batch, len(prompts)))
        batch = [prompts[index] for index in indices]
        watch = _Watch(generator, indices, [len(tokens) for tokens in batch], tracker)
        turn = start // options.batch
        plain, generations = duel.round(turn, batch, plan.params_of(indices), watch.start, watch.event)
        plain = generations if itself else plain
        for generation in (*(plain or ()), *generations):
            if generation.error is not None:
                raise generation.error
        finished = [
            watch.row(at, records[index], generations[at], plain[at] if plain is not None else None, plan.judge)
            for at, index in enumerate(indices)
        ]
        folder.append(finished)
        rows += finished
        held = max(held, watch.held)
        for row in finished:
            tracker.prompt(row.table_row())
        on_prompt(len(rows))
    curve = measure(generator.engine.model) if options.profile else None
    learnt = survival(generator.engine.policy)
    evicted = generator.engine.cache.prefixes.evicted_tokens
    evidence = _examine(generator, plan, options, prompts, folder.path)
    summary = summarize(
        rows, options.batch, curve, held, evicted, cost_curve=curve and asdict(curve), survival=learnt, **evidence
    )
    folder.finish(rows, summary)


def _examine(
    generator: SpeculativeGenerator, plan: Plan, options: JobOptions, prompts: Sequence[list[int]], folder: Path
) -> dict[str, Any]:
    """After the clock has stopped: distances and calibration from a trace, and the certificate."""
    diagnostics = DraftDiagnostics(plan.params.greedy)
    if count := min(options.trace.prompts, len(prompts)):
        params = plan.params_of(range(count))
        trace = record(
            generator.loop,
            prompts[:count],
            params,
            top_k=options.trace.top_k,
            every_position=options.trace.every_position,
            watch=diagnostics.observe,
        )
        if options.trace.save:
            save_trace(trace, folder / TRACE)
    return {
        "tv_by_position": diagnostics.tv_by_position,
        "calibration": diagnostics.calibration,
        "certificate": certificate_of(plan.judge) if options.certified else None,
    }


class _Watch:
    """Follows the speculative side of one batch, by the engine's own clock."""

    def __init__(
        self, generator: SpeculativeGenerator, indices: Sequence[int], prompt_tokens: Sequence[int], tracker: Tracker
    ) -> None:
        self._engine, self._tokenizer, self._tracker = generator.engine, generator.tokenizer, tracker
        self._prompts = [_Prompt(index, count) for index, count in zip(indices, prompt_tokens, strict=True)]
        self._began = 0.0
        self.held = 0
        """Most bytes that the drafters held, as often as was looked."""

    def start(self) -> None:
        """The batch begins."""
        self._began = self._engine.busy_seconds

    def event(self, event: StreamEvent) -> None:
        """One prompt's part of a step."""
        if event.generation is not None:
            return
        prompt = self._prompts[event.index]
        prompt.arrivals.append(self._engine.busy_seconds - self._began)
        usage = self._engine.cache.usage()
        if usage.allocated_slots:  # the last step of a batch has given everything back
            prompt.usage.append(usage)
        step = prompt.step(event, self._tokenizer)
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

    def row(
        self, at: int, record: PromptRecord, generation: Generation, plain: Generation | None, rule: Rule
    ) -> PromptRow:
        """What is kept of the batch's prompt number `at`."""
        prompt = self._prompts[at]
        return PromptRow(
            index=prompt.index,
            question_id=record.question_id,
            category=record.category,
            prompt=record.prompt,
            text=generation.text,
            token_ids=generation.token_ids,
            seed=generation.seed,
            finish_reason=generation.finish_reason,
            stats=generation.stats,
            plain_token_ids=None if plain is None else plain.token_ids,
            plain_stats=None if plain is None else plain.stats,
            comparable=rule.draft_invariant,
            ttft_seconds=prompt.arrivals[0],
            gaps_seconds=[later - earlier for earlier, later in pairwise(prompt.arrivals)],
            kv_occupancy=_mean([usage.allocated_slots / usage.total_slots for usage in prompt.usage]),
            kv_waste=_mean([usage.waste for usage in prompt.usage]),
            steps=prompt.steps,
        )


@dataclass
class _Prompt:
    """One prompt on its way: when tokens came, in seconds after the batch began, and what each step did."""

    index: int
    length: int
    arrivals: list[float] = field(default_factory=list)
    usage: list[CacheUsage] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)

    def step(self, event: StreamEvent, tokenizer: Any) -> StepRow:
        tree, path = event.draft, event.path
        refused = tree.refused(path)
        row = StepRow(
            index=self.index,
            step=len(self.steps),
            anchor=self.length,
            drafted=len(tree),
            tested=len(path) + bool(refused),
            accepted=len(path),
            texts=[piece.text for piece in event.pieces],
            proposed=[piece.drafted for piece in event.pieces],
            rejected=tokenizer.decode([tree.tokens[refused[0]]]) if refused else None,
            drafter=event.drafter,
        )
        self.steps.append(row)
        self.length += len(event.token_ids)
        return row


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
