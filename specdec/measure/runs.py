"""Run folders, read: what every report takes.

    runs/<study>/<job>/
        config.yaml          its settings, resolved
        axes.json            what may differ between the study's jobs
        environment.json     machine, versions, git state, command
        rows.jsonl           one line a finished prompt, while the job runs
        rows.parquet         the same at the end
        steps.parquet        one row a verified step
        trace.safetensors    with trace.save=true
        summary.json         the figures, and size and digest of the files above; a job with this file is done
        error.txt            in place of those, if it failed

`specdec.measure.folders` writes them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import yaml

from specdec.errors import ConfigError
from specdec.foreign import described
from specdec.places import is_claimed

CONFIG, AXES, ENVIRONMENT, SUMMARY, ERROR = "config.yaml", "axes.json", "environment.json", "summary.json", "error.txt"
LINES, ROWS, STEPS, TRACE = "rows.jsonl", "rows.parquet", "steps.parquet", "trace.safetensors"
SEALED = (CONFIG, AXES, ENVIRONMENT, ROWS, STEPS, TRACE)
"""Files that a done job has, but for a trace that was not saved."""
SEAL, FIGURES, VERSION = "files", "figures", 2
"""The summary's entry for them, in it the one for the summary itself, and the version of such folders."""
DAMAGED = ".damaged-"
"""In the name of a folder that was set aside."""
HIDDEN = ".specdec"
"""Beside the run folders: their locks, and what was planned."""


class DamagedRunError(ConfigError):
    """A run folder that is not as it was written; says what is wrong."""


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Args:
        folder: where it is.
        status, error: of the job; the error is its traceback. A planned job has no folder yet.
        config, environment: as the job began.
        axes: what may differ between the study's jobs, by name: drafter, rule, policy, temperature, …
        summary: the figures (see `specdec.measure.summary`).
        rows, steps: one row a prompt, one row a verified step. These and the summary are empty unless the job is done.
    """

    folder: Path
    status: Literal["done", "failed", "unfinished", "running", "planned"]
    error: str | None
    config: dict[str, Any]
    environment: dict[str, Any]
    axes: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Unique in its study."""
        return self.folder.name


def load_runs(study: str | Path) -> list[Run]:
    """Every job of a study, by name. A damaged folder is left out, with a warning.

    Raises:
        ConfigError: if there is none.
    """
    paths = sorted(path for path in Path(study).glob("[!.]*") if DAMAGED not in path.name)
    folders = [path for path in paths if any((path / name).exists() for name in (CONFIG, LINES, SUMMARY))]
    runs = []
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except DamagedRunError as error:
            warnings.warn(f"{error} It is left out; the study's command runs it again.", RuntimeWarning, stacklevel=2)
    if not runs:
        raise ConfigError(f"No run folders in {study}. Give the folder of a study: runs/<study>.")
    return runs


def load_run(folder: Path) -> Run:
    """Reads one run folder, whatever the state of its job.

    Raises:
        DamagedRunError: if a file is missing, cut, or not what was written.
    """
    done = (folder / SUMMARY).is_file()
    error = read(folder / ERROR, _text) if (folder / ERROR).exists() else None
    summary, sealed = _checked_summary(folder) if done else ({}, False)
    run = Run(
        folder=folder,
        status="done" if done else "failed" if error is not None else _still(folder),
        error=error,
        config=read(folder / CONFIG, lambda path: yaml.safe_load(_text(path))),
        environment=read(folder / ENVIRONMENT, lambda path: json.loads(_text(path))),
        axes=read(folder / AXES, lambda path: json.loads(_text(path))),
        summary=summary,
        rows=read(folder / ROWS, _table) if done else [],
        steps=read(folder / STEPS, _table) if done else [],
    )
    for name, values in ((CONFIG, run.config), (ENVIRONMENT, run.environment), (AXES, run.axes)):
        if not isinstance(values, dict):
            raise DamagedRunError(f"{folder / name} holds something else.")
    if done and not sealed and summary["metrics"].get("prompts") != len(run.rows):
        raise DamagedRunError(f"{folder / ROWS} has not the rows of {SUMMARY}.")
    return run


def _still(folder: Path) -> Literal["running", "unfinished"]:
    """Whether a process is at a job that is not done."""
    return "running" if is_claimed(lock_of(folder)) else "unfinished"


def lock_of(folder: Path) -> Path:
    """The file that a run folder's writer holds."""
    return folder.parent / HIDDEN / "locks" / folder.name


def _checked_summary(folder: Path) -> tuple[dict[str, Any], bool]:
    """Of a job that is done, without its seal, and whether it had one: then all files are as they were."""
    summary = read(folder / SUMMARY, lambda path: json.loads(_text(path)))
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise DamagedRunError(f"{folder / SUMMARY} holds something else.")
    told = summary.pop(SEAL, None)
    if told is None:
        return summary, False
    if not isinstance(told, dict) or told.get("version") != VERSION:
        raise DamagedRunError(f"{folder / SUMMARY} is of another version of specdec.")
    found = seal(folder, summary)
    if changed := [name for name, mark in found.items() if mark != told.get(name)]:
        wrong = SUMMARY if changed[0] == FIGURES else changed[0]
        raise DamagedRunError(f"{folder / wrong} is not what was written.")
    return summary, True


def seal(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The version, and a digest of the figures and of each file of a done job; None for one that is not there."""
    marks = {name: read(folder / name, _digest) if (folder / name).exists() else None for name in SEALED}
    told = json.dumps(summary, sort_keys=True).encode()
    return {"version": VERSION, **marks, FIGURES: hashlib.sha256(told).hexdigest()}


def read(path: Path, how: Callable[[Path], Any]) -> Any:
    """What `how` makes of a file.

    Raises:
        DamagedRunError: if it cannot.
    """
    try:
        return how(path)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # pyarrow's and JSON's are ValueErrors
        raise DamagedRunError(f"{path} cannot be read: {described(error)}") from error


def _text(path: Path) -> str:
    return path.read_bytes().decode()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table(path: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        rows: list[dict[str, Any]] = file.read().to_pylist()
    return rows
