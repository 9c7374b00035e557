"""One comparison from installing to report: who can start, who is measured, what is left out and why.

The contenders of one precision run side by side, and the baseline with them: all together would not fit into a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import exp
from statistics import mean
from typing import Any

from benchmarks.peers.contenders import BASELINE, HOME, MODELS, OURS, Contender, environment
from benchmarks.peers.install import install
from benchmarks.peers.measure import Batch, Measured, batches_of, measure
from benchmarks.peers.models import prepare
from benchmarks.peers.report import batch_report, ratio_report
from benchmarks.peers.worker import Worker, WorkerError
from specdec.prompts import PromptRecord

SPARE_CONTEXT = 64
"""Tokens: room for drafts behind the last token."""


@dataclass(frozen=True)
class Plan:
    """How everyone is measured.

    Args:
        max_tokens: new tokens of each prompt, at most.
        repeats: how often each contender decodes each batch.
        batch_sizes: prompts that are decoded together.
        threads: of each engine.
    """

    max_tokens: int = 128
    repeats: int = 3
    batch_sizes: tuple[int, ...] = (1, 8)
    threads: int = 2


def tokenized(tokenizer: Any, records: Sequence[PromptRecord]) -> list[tuple[str, list[int]]]:
    """Category and token ids of each prompt, with the chat template around it."""
    prompts = []
    for record in records:
        chat = [{"role": "user", "content": record.prompt}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompts.append((record.category, tokenizer.encode(text, add_special_tokens=False)))
    return prompts


def ready(contenders: Sequence[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Installs the engines and makes their models; the contenders that can start, and why the others cannot."""
    engines = dict.fromkeys(contender.engine for contender in contenders if contender.engine != OURS)
    reasons = {engine: install(engine) or prepare(engine) for engine in engines}
    left_out = {each.name: reason for each in contenders if (reason := reasons.get(each.engine))}
    return [each for each in contenders if each.name not in left_out], left_out


def start_all(
    contenders: Sequence[Contender], settings: dict[str, Any], left_out: dict[str, str], stack: ExitStack
) -> dict[str, Worker]:
    """Starts one process after the other; those that fail are added to `left_out`."""
    workers: dict[str, Worker] = {}
    for contender in contenders:
        print(f"Starting {contender.name} …", flush=True)
        own = {"mode": contender.mode, "dtype": contender.dtype, "num_draft_tokens": contender.num_draft_tokens}
        variables = environment(contender.engine, settings["threads"])
        log = HOME / "logs" / f"{contender.name}.log"
        try:
            worker = Worker(contender.command, settings | own, variables, log)
        except WorkerError as error:
            left_out[contender.name] = f"did not start: {error}"
        else:
            workers[contender.name] = stack.enter_context(closing(worker))
    return workers


def classes(contenders: Sequence[Contender]) -> list[list[Contender]]:
    """The contenders of each precision, and the baseline, if it takes part, first among them."""
    baseline = [each for each in contenders if each.name == BASELINE]
    others = [each for each in contenders if each.name != BASELINE]
    precisions = dict.fromkeys(each.bits for each in contenders)
    return [baseline + [each for each in others if each.bits == bits] for bits in precisions]


def perplexities(
    members: Sequence[Contender], workers: Mapping[str, Worker], texts: Sequence[list[int]], left_out: dict[str, str]
) -> dict[str, float]:
    """Of those that decode plainly: exp of the mean loss of all tokens but the first of each text. Those that fail are
    added to `left_out`."""
    found: dict[str, float] = {}
    for name in [each.name for each in members if each.mode == "plain" and each.name in workers and texts]:
        try:
            found[name] = exp(mean(loss for text in texts for loss in workers[name].losses(text)))
        except WorkerError as error:
            left_out[name] = f"stopped while reading: {error}"
    return found


def measured(
    members: Sequence[Contender],
    workers: Mapping[str, Worker],
    batches: Sequence[Batch],
    eos: list[int],
    plan: Plan,
    left_out: dict[str, str],
) -> dict[str, Measured]:
    """What those did that could start, side by side. Those that fail are added to `left_out`."""
    able = {each.name: workers[each.name] for each in members if each.name not in left_out}
    records, failed = measure(able, batches, plan.max_tokens, plan.repeats, eos)
    left_out |= failed
    return {name: Measured(record, records.get(BASELINE)) for name, record in records.items()}


def compare(
    contenders: Sequence[Contender],
    prompts: Sequence[tuple[str, list[int]]],
    eos: list[int],
    texts: Sequence[list[int]],
    plan: Plan,
) -> dict[str, Any]:
    """Measures all of them, one precision and batch size after the other.

    Args:
        contenders: who takes part, if it can.
        prompts: category and token ids of each.
        eos: token ids that end a text.
        texts: what perplexity is measured on, of those that decode plainly.
        plan: how.

    Returns:
        The report, but for what the command line knows.
    """
    contenders, left_out = ready(contenders)
    longest = max(max(len(prompt) for _, prompt in prompts) + plan.max_tokens, *map(len, texts), 0)
    settings = {
        "threads": plan.threads,
        "eos": eos,
        "models": str(MODELS),
        "context": longest + SPARE_CONTEXT,
        "max_batch": max(plan.batch_sizes),
    }
    batches = {size: batches_of(prompts, size) for size in plan.batch_sizes}
    found: dict[int, dict[str, Measured]] = {size: {} for size in plan.batch_sizes}
    read: dict[str, float] = {}
    versions: dict[str, dict[str, str]] = {}
    for members in classes(contenders):
        with ExitStack() as stack:
            workers = start_all(members, settings, left_out, stack)
            versions |= {each.engine: workers[each.name].versions for each in members if each.name in workers}
            read |= perplexities([each for each in members if each.name not in read], workers, texts, left_out)
            for size in plan.batch_sizes:
                print(f"Measuring batch {size}: {len(batches[size])} batches …", flush=True)
                able = [each for each in members if each.batched or size == 1]
                for name, each in measured(able, workers, batches[size], eos, plan, left_out).items():
                    found[size].setdefault(name, each)
    sizes = {str(size): batch_report(found[size], batches[size]) for size in plan.batch_sizes}
    ratios = [ratio_report(size, found[size], batches[size]) for size in plan.batch_sizes]
    return {
        "versions": versions,
        "left_out": left_out,
        "perplexity": read,
        "batch": sizes,
        "ratios": {key: entry for each in ratios for key, entry in each.items()},
    }
