"""Which jobs a command asked for: each of them notes its name, wherever it runs, and the command reads them at its end.

A study's folder also holds jobs of other commands. They are on its page, and decide no exit code but their own.
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from specdec.measure.folders import HIDDEN
from specdec.places import append, writing


def note(config: DictConfig, name: str) -> None:
    """A job was asked for.

    Raises:
        UnwritableError: if nothing can be written where runs are.
    """
    _add(config, {"study": config.study, "name": name})


def note_problem(config: DictConfig, problem: str) -> None:
    """A job that could not begin.

    Raises:
        UnwritableError: if nothing can be written where runs are.
    """
    _add(config, {"problem": problem})


def read(config: DictConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """What the jobs of this command noted, which is forgotten then: study and name of each, and problems."""
    path = _path(config)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    entries = [json.loads(line) for line in lines]
    asked = [(entry["study"], entry["name"]) for entry in entries if "name" in entry]
    return asked, [entry["problem"] for entry in entries if "problem" in entry]


def _add(config: DictConfig, entry: dict[str, str]) -> None:
    if config.ledger:
        path = _path(config)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        append(path, json.dumps(entry) + "\n")


def _path(config: DictConfig) -> Path:
    return Path(config.runs) / HIDDEN / "asked" / f"{config.ledger}.jsonl"
