"""What a prompt is, and the plain file of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from specdec.checks import either, take, text, whole
from specdec.errors import ConfigError
from specdec.foreign import described
from specdec.prompts.files import check_there, json_of, lines

WORD = either(text(), whole(-(2**63), 2**63 - 1)).but("a non-empty text or an integer of 64 bits")
"""What an id or a category may be."""


@dataclass(frozen=True)
class PromptRecord:
    """One question, or a conversation of several (Spec-Bench's names).

    Args:
        question_id: its name in the set.
        category: what figures are summed up by.
        prompt: the first turn.
        later: the turns after it; each follows an answer.
        kind: its category in the file, if `category` is a group of several; None otherwise.
    """

    question_id: str
    category: str
    prompt: str
    later: tuple[str, ...] = ()
    kind: str | None = None

    @property
    def turns(self) -> tuple[str, ...]:
        """All that is asked, in order."""
        return (self.prompt, *self.later)


def load_prompts(path: str | Path | None = None, limit: int | None = None) -> list[PromptRecord]:
    """Reads prompts.

    Args:
        path: a JSON-lines file; None takes the four that ship with specdec.
        limit: read no more than this many.

    Raises:
        ConfigError: if the file is missing or empty, a line lacks a field or has one of another type, or two lines have
            one question_id.
    """
    source = Path(str(files(__package__).joinpath("demo.jsonl"))) if path is None else Path(path)
    check_there(source)
    try:
        records = list(islice(_parse(source), limit))
    except (OSError, EOFError) as error:
        raise ConfigError(f"{source} cannot be read: {described(error)} Give JSON lines in UTF-8.") from error
    if not records:
        raise ConfigError(f"No prompts in {path}. Each line must hold question_id, category and prompt.")
    return records


def _parse(file: Path) -> Iterator[PromptRecord]:
    seen: dict[str, int] = {}
    for number, line in lines(file):
        where = f"{file}, line {number}"
        row = json_of(line, file, number)
        there = row if isinstance(row, dict) else {}
        if lacking := [name for name in ("question_id", "category", "prompt") if name not in there]:
            raise ConfigError(f"{where}: no {lacking[0]}. Expected question_id, category and prompt.")
        record = record_of(where, row["question_id"], row["category"], row["prompt"])
        if record.question_id in seen:
            raise ConfigError(f"{where}: line {seen[record.question_id]} has the same question_id. Give each its own.")
        seen[record.question_id] = number
        yield record


def record_of(where: str, question_id: Any, category: Any, prompt: Any, later: Sequence[Any] = ()) -> PromptRecord:
    """A prompt of values from a file; `later` are the turns after it.

    Raises:
        ConfigError: if one has another type than it must; says `where`.
    """
    return PromptRecord(
        str(take(f"{where}: question_id", question_id, WORD)),
        str(take(f"{where}: category", category, WORD)),
        take(f"{where}: prompt", prompt, text()),
        tuple(take(f"{where}: turn {number}", turn, text()) for number, turn in enumerate(later, 2)),
    )
