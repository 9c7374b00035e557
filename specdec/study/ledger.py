"""Which jobs a command asked for: each of them notes its name, wherever it runs, and the command reads them at its end.

A study's folder also holds jobs of other commands. They are on its page, and decide no exit code but their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from specdec.measure.runs import HIDDEN
from specdec.places import append, writing


def note(config: DictConfig, name: str, number: int) -> int:
    """A job was asked for.

    Args:
        config: of the job.
        name: of its run folder.
        number: of the job in its command.

    Returns:
        The number of the first job of the command that has this folder: `number`, unless several jobs are the same.

    Raises:
        UnwritableError: if nothing can be written where runs are.
    """
    _add(config, {"study": config.study, "name": name, "number": number})
    asked = [entry for entry in _entries(config) if (entry.get("study"), entry.get("name")) == (config.study, name)]
    return int(asked[0]["number"]) if asked else number


def note_problem(config: DictConfig, problem: str) -> None:
    """A job that could not begin.

    Raises:
        UnwritableError: if nothing can be written where runs are.
    """
    _add(config, {"problem": problem})


def read(config: DictConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """What the jobs of this command noted, which is forgotten then: study and name of each, and problems."""
    entries = _entries(config)
    _path(config).unlink(missing_ok=True)
    asked = [(entry["study"], entry["name"]) for entry in entries if "name" in entry]
    return asked, [entry["problem"] for entry in entries if "problem" in entry]


def _entries(config: DictConfig) -> list[dict[str, Any]]:
    path = _path(config)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _add(config: DictConfig, entry: dict[str, Any]) -> None:
    if config.ledger:
        path = _path(config)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        append(path, json.dumps(entry) + "\n")


def _path(config: DictConfig) -> Path:
    return Path(config.runs) / HIDDEN / "asked" / f"{config.ledger}.jsonl"
