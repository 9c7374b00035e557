"""One job: decode the prompts of a plan, keep every one in the run folder, and sum up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from specdec.analysis.traces import record, save_trace
from specdec.generator import SpeculativeGenerator
from specdec.measure.compare import Duel
from specdec.measure.diagnostics import DraftDiagnostics
from specdec.measure.drafters import survival
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow
from specdec.measure.runs import TRACE
from specdec.measure.summary import summarize
from specdec.policy.cost import measure
from specdec.prompts import PromptRecord
from specdec.proof.certificates import certificate_of
from specdec.study.config import TraceConfig
from specdec.study.conversation import Conversation, Watch
from specdec.study.plan import Plan
from specdec.study.sameness import drafts_nothing
from specdec.tracking import Tracker


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
    prompts = [generator.encode(plan.prompt(record.turns[:1], generator)) for record in records]
    rows, held = list(done), generator.engine.drafter_bytes
    on_prompt(len(rows))
    batches = range(len(rows), len(records), options.batch)
    duel = Duel(generator, options.baseline and not drafts_nothing(plan)) if batches else None
    for start in batches:
        assert duel is not None
        conversations = [
            Conversation(index, records[index]) for index in range(start, min(start + options.batch, len(records)))
        ]
        held = max(held, _converse(duel, plan, options, conversations, start // options.batch, tracker))
        finished = [conversation.row(plan.judge) for conversation in conversations]
        folder.append(finished)
        rows += finished
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


def _converse(
    duel: Duel, plan: Plan, options: JobOptions, conversations: Sequence[Conversation], number: int, tracker: Tracker
) -> int:
    """Decodes a batch turn by turn; each side reads its own answers.

    Args:
        duel: has both sides.
        plan: see `run_job`.
        options: see `run_job`.
        conversations: of the batch; they get what is answered.
        number: of the batch.
        tracker: see `run_job`.

    Returns:
        Most bytes that the drafters held.
    """
    generator, held, turn = duel.generator, 0, 0
    while going := [conversation for conversation in conversations if conversation.goes_on]:
        prompts = [generator.encode(plan.prompt(one.said(), generator)) for one in going]
        plain_prompts = None  # the first turns are the same for both sides
        if turn and duel.plain is not None:
            plain_prompts = [generator.encode(plan.prompt(one.said(plain=True), generator)) for one in going]
        watch = Watch(generator, going, [len(tokens) for tokens in prompts], tracker)
        params = plan.params_of([conversation.index for conversation in going])
        plain, generations = duel.round(number + turn, prompts, params, watch.start, watch.event, plain_prompts)
        if options.baseline and duel.plain is None:  # what decodes plainly is its own baseline
            plain = generations
        for generation in (*(plain or ()), *generations):
            if generation.error is not None:
                raise generation.error
        for at, conversation in enumerate(going):
            conversation.answered(generations[at], plain[at] if plain is not None else None)
        held, turn = max(held, watch.held), turn + 1
    return held


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
