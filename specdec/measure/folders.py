"""Run folders, written: one job at a time, every finished prompt at once, and nothing lost but the prompt in flight.

A line is on the disk before the next prompt begins. After a kill the job reads the lines and goes on. A folder that is
not as it was written is set aside, and its job begins anew.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from specdec import places
from specdec.measure.rows import PromptRow
from specdec.measure.runs import (
    AXES,
    CONFIG,
    DAMAGED,
    ENVIRONMENT,
    ERROR,
    LINES,
    ROWS,
    SEAL,
    STEPS,
    SUMMARY,
    TRACE,
    DamagedRunError,
    Run,
    load_run,
    lock_of,
    read,
    seal,
)
from specdec.prompts import PromptRecord


class RunFolder:
    """Where one job writes.

    Args:
        path: the folder; it is made when the job begins.
        prompts: of the job, if rows are to be checked against them.
        identity: settings that a config in the folder must have, if it is to be checked.
    """

    def __init__(
        self, path: Path, prompts: Sequence[PromptRecord] | None = None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self._prompts, self._identity = prompts, identity

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """This process alone may write inside the block.

        Raises:
            BusyError: if another process is at it.
            UnwritableError: if nothing can be written there.
        """
        try:
            with places.claimed(lock_of(self.path)):
                yield
        except places.BusyError as error:
            raise places.BusyError(f"{self.path}: {error}") from None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.path / SUMMARY).is_file()

    def finished(self) -> Run | None:
        """The run, if it is done and as it was written; a damaged folder is set aside, with a warning.

        Raises:
            UnwritableError: if it cannot be set aside.
        """
        try:
            rows = self._rows()
            if not self.done:
                return None
            run = load_run(self.path)
            self._check(run, rows)
        except DamagedRunError as damage:
            self._set_aside(damage)
            return None
        return run

    def begin(
        self, config: Mapping[str, Any], axes: Mapping[str, Any], environment: Mapping[str, Any], anew: bool = False
    ) -> list[PromptRow]:
        """Starts, or goes on.

        Args:
            config: the settings.
            axes: see `Run`.
            environment: see `specdec.measure.environment`.
            anew: forget earlier tries.

        Returns:
            Rows of the prompts that are finished.

        Raises:
            UnwritableError: if nothing can be written there.
        """
        with places.writing(self.path):
            if anew:
                for name in (SUMMARY, LINES, ROWS, STEPS, TRACE):
                    (self.path / name).unlink(missing_ok=True)
            rows = self._kept_rows()
            self.path.mkdir(parents=True, exist_ok=True)
            for left in (self.path / ERROR, *self.path.glob(".*.part")):
                left.unlink(missing_ok=True)
        places.write(self.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        self._write_json(AXES, axes)
        self._write_json(ENVIRONMENT, environment)
        return rows

    def append(self, rows: Iterable[PromptRow]) -> None:
        """Writes finished prompts to the disk.

        Raises:
            UnwritableError: if it cannot; the file is then as it was.
        """
        places.append(self.path / LINES, "".join(row.line() for row in rows))

    def finish(self, rows: list[PromptRow], summary: Mapping[str, Any]) -> None:
        """Writes the tables, then the figures; with those the job is done.

        Raises:
            UnwritableError: if it cannot; the lines are still there.
        """
        json.dumps(summary, allow_nan=False)
        self._write_table(ROWS, [row.table_row() for row in rows])
        self._write_table(STEPS, [asdict(step) for row in rows for step in row.steps])
        told = json.loads(json.dumps(summary))
        self._write_json(SUMMARY, {**told, SEAL: seal(self.path, told)})
        with suppress(OSError):  # it is done without that
            (self.path / LINES).unlink()

    def fail(self, message: str) -> None:
        """Notes why the job ended early; it may be run again.

        Raises:
            UnwritableError: if it cannot.
        """
        places.write(self.path / ERROR, message)

    def _kept_rows(self) -> list[PromptRow]:
        """Whole lines. What a kill cut short is removed, so that the next line does not join it."""
        try:
            rows = self._rows()
        except DamagedRunError as damage:
            self._set_aside(damage)
            return []
        path = self.path / LINES
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return rows

    def _rows(self) -> list[PromptRow]:
        """The lines that are there.

        Raises:
            DamagedRunError: if the folder is none, a file in it is none, or a line is not that of its prompt.
        """
        if not os.path.lexists(self.path):
            return []
        if not self.path.is_dir():
            raise DamagedRunError(f"{self.path} is not a folder.")
        for name in (CONFIG, AXES, ENVIRONMENT, LINES, ROWS, STEPS, TRACE, SUMMARY, ERROR):
            if os.path.lexists(self.path / name) and not places.is_file(self.path / name):
                raise DamagedRunError(f"{self.path / name} is no file.")
        path = self.path / LINES
        if not self.done and not path.exists() and (self.path / ROWS).exists():
            raise DamagedRunError(f"{self.path / SUMMARY} is missing.")
        if self.done or not path.exists():
            return []
        whole, _, _ = read(path, Path.read_bytes).rpartition(b"\n")
        rows = [self._row(number, line) for number, line in enumerate(whole.split(b"\n") if whole else [])]
        if rows:
            self._check(load_run(self.path), rows)
        return rows

    def _row(self, number: int, line: bytes) -> PromptRow:
        try:
            return PromptRow.parse(line.decode())
        except (ValueError, RecursionError) as error:
            raise DamagedRunError(f"{self.path / LINES}, line {number + 1}: {error}.") from error

    def _check(self, run: Run, rows: Sequence[PromptRow]) -> None:
        """Raises DamagedRunError if a row is not of the prompt in its place, or the settings are another job's."""
        if self._identity is not None and _plain({**run.config, **self._identity}) != _plain(run.config):
            raise DamagedRunError(f"{self.path / CONFIG} has another job's settings.")
        if self._prompts is None:
            return
        kept: list[dict[str, Any]] = run.rows if run.status == "done" else [row.table_row() for row in rows]
        told = [tuple(row.get(name) for name in ("index", "question_id", "category", "prompt")) for row in kept]
        wanted = [(index, one.question_id, one.category, one.prompt) for index, one in enumerate(self._prompts)]
        if told != wanted[: len(told)] or (run.status == "done" and len(told) != len(wanted)):
            same = [one == other for one, other in zip(told, wanted, strict=False)]
            place = same.index(False) if False in same else len(same)
            raise DamagedRunError(f"{self.path}: row {place + 1} is not that of prompt {place + 1}.")

    def _set_aside(self, damage: DamagedRunError) -> None:
        aside = places.set_aside(self.path, DAMAGED)
        warnings.warn(
            f"{damage} The folder is kept as {aside.name}, and its job is run again.", RuntimeWarning, stacklevel=3
        )

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        places.write(self.path / name, json.dumps(values, indent=1, allow_nan=False) + "\n")

    def _write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        path = self.path / name
        with places.writing(path), places.replacing(path) as part:
            pq.write_table(pa.Table.from_pylist(list(rows)), part)


def _plain(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
