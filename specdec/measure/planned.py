"""The jobs of a study that have not begun: a command notes all that it will run before the first one starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.measure.runs import HIDDEN, Run, load_runs
from specdec.places import write

FILE = "planned.json"


def note_planned(study: Path, axes: Sequence[Mapping[str, Any]]) -> None:
    """Keeps what a command is about to run; what an earlier one had planned for the study is forgotten.

    Args:
        study: its folder.
        axes: of every job, see `Run`.

    Raises:
        UnwritableError: if nothing can be written there.
    """
    write(study / HIDDEN / FILE, json.dumps(list(axes), default=str) + "\n")


def load_study(study: Path) -> list[Run]:
    """Every job of a study: those of `load_runs`, then those that are planned and have no folder.

    Raises:
        ConfigError: if no job has begun.
    """
    begun = load_runs(study)
    there = {_told(run.axes) for run in begun}
    waiting = {told: axes for axes in _noted(study) if (told := _told(axes)) not in there}
    return [*begun, *(_planned(study / f"planned-{number}", axes) for number, axes in enumerate(waiting.values(), 1))]


def _noted(study: Path) -> list[dict[str, Any]]:
    """What was noted; nothing if it cannot be read, as figures do not depend on it."""
    try:
        noted = json.loads((study / HIDDEN / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [axes for axes in noted if isinstance(axes, dict)] if isinstance(noted, list) else []


def _planned(folder: Path, axes: dict[str, Any]) -> Run:
    return Run(folder, "planned", None, {}, {}, axes, {}, [], [])


def _told(axes: Mapping[str, Any]) -> str:
    return json.dumps(axes, sort_keys=True, default=str)
