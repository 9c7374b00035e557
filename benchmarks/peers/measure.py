"""Interleaved measurement: every contender decodes a batch before anyone decodes the next, in an order that rotates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.peers.worker import Answer, WorkerError

WARM_UP_TOKENS = 32


class Asked(Protocol):
    """What is needed of a worker."""

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Answer:
        """Decodes one batch."""

    def forget(self) -> None:
        """What was decoded so far helps no later request."""


@dataclass(frozen=True)
class Batch:
    """Prompts that are decoded together; all of one category, so that time can be told by category.

    Args:
        category: of all of them.
        prompts: their token ids.
    """

    category: str
    prompts: list[list[int]]


@dataclass
class Record:
    """What one contender did; indexed by repetition, then by batch."""

    seconds: list[list[float]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    """New tokens, the end token not counted: some engines return it, some do not."""
    outputs: list[list[list[int]]] = field(default_factory=list)
    """By batch, then by prompt: the first repetition's token ids."""
    repeated: bool = True
    """Every repetition gave the same outputs."""


@dataclass(frozen=True)
class Measured:
    """What one contender did, and what the baseline did beside it, if it took part."""

    record: Record
    baseline: Record | None


def batches_of(prompts: Sequence[tuple[str, list[int]]], size: int) -> list[Batch]:
    """Cuts the prompts of each category into batches; a category's last one may be smaller."""
    categories: dict[str, list[list[int]]] = {}
    for category, prompt in prompts:
        categories.setdefault(category, []).append(prompt)
    return [
        Batch(category, members[start : start + size])
        for category, members in categories.items()
        for start in range(0, len(members), size)
    ]


def measure(
    workers: Mapping[str, Asked], batches: Sequence[Batch], max_tokens: int, repeats: int, eos: Sequence[int]
) -> tuple[dict[str, Record], dict[str, str]]:
    """Lets every worker decode every batch `repeats` times. Between two times it forgets.

    Returns:
        The records of those that finished, and why the others did not.
    """
    records = {name: Record() for name in workers}
    failed: dict[str, str] = {}

    def ask(name: str, request: Callable[[Asked], Answer | None]) -> Answer | None:
        try:
            return request(workers[name])
        except WorkerError as error:
            failed[name] = f"stopped while decoding: {error}"
            del records[name]
            return None

    for name in workers:
        ask(name, lambda worker: worker.generate(batches[0].prompts, WARM_UP_TOKENS))
    for repeat in range(repeats):
        for name in list(records):
            ask(name, lambda worker: worker.forget())
        for record in records.values():
            record.seconds.append([])
            record.tokens.append([])
        for index, batch in enumerate(batches):
            for name in _rotated(list(records), repeat + index):
                answer = ask(name, lambda worker, batch=batch: worker.generate(batch.prompts, max_tokens))
                if answer is not None:
                    _note(records[name], index, answer, eos)
    return records, failed


def _rotated(names: list[str], turn: int) -> list[str]:
    start = turn % max(1, len(names))
    return names[start:] + names[:start]


def _note(record: Record, index: int, answer: Answer, eos: Sequence[int]) -> None:
    outputs = [output[:-1] if output and output[-1] in eos else output for output in answer.outputs]
    record.seconds[-1].append(answer.seconds)
    record.tokens[-1].append(sum(map(len, outputs)))
    if len(record.seconds) == 1:
        record.outputs.append(outputs)
    else:
        record.repeated &= outputs == record.outputs[index]
