"""What a prompt is, and the plain file of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path

from specdec.errors import ConfigError


@dataclass(frozen=True)
class PromptRecord:
    """One line of a prompt file: fields `question_id`, `category` and `prompt` (Spec-Bench's names)."""

    question_id: str
    category: str
    prompt: str


def load_prompts(path: str | Path | None = None, limit: int | None = None) -> list[PromptRecord]:
    """Reads prompts.

    Args:
        path: a JSON-lines file; None takes the four that ship with specdec.
        limit: read no more than this many.

    Raises:
        ConfigError: if the file is missing, empty, or a line lacks a field.
    """
    source = files(__package__).joinpath("demo.jsonl") if path is None else Path(path)
    if not source.is_file():
        raise ConfigError(f"There is no prompt file at {path}. Give a JSON-lines file with data.path=…")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}. Convert it.") from error
    records = list(islice(_parse(text, str(path)), limit))
    if not records:
        raise ConfigError(f"No prompts in {path}. Each line must hold question_id, category and prompt.")
    return records


def _parse(text: str, name: str) -> Iterator[PromptRecord]:
    for number, line in enumerate(text.split("\n"), 1):  # JSON strings may hold other separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield PromptRecord(str(row["question_id"]), str(row["category"]), str(row["prompt"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{name}, line {number}: {error!r}. Expected question_id, category and prompt."
            ) from error
