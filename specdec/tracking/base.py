"""The calls that a tracker gets, and a guard around them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def figures(metrics: Row) -> dict[str, Any]:
    """What is shown of a summary's metrics: nothing that was not measured, and no speedup that cannot be true."""
    hidden = () if metrics["credible"] else ("speedup", "speedup_low", "speedup_high", "speedup_with_prefill")
    return {name: value for name, value in metrics.items() if value is not None and name not in hidden}


@dataclass(frozen=True)
class Screen:
    """What a study found, for a dashboard.

    Args:
        html: a document without scripts: who leads and why, speedups with their intervals, the leaderboard, the time.
        columns, rows: the leaderboard's headings, and the cells of each method.
    """

    html: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Tracker(ABC):
    """Told of one job, from `start` to `finish` or `fail`."""

    @abstractmethod
    def start(self, name: str, study: str, config: Row, environment: Row, folder: Path) -> None:
        """A job begins.

        Args:
            name: unique in its study.
            study: what groups the jobs of a sweep.
            config: the resolved settings.
            environment: machine, versions, git state, command.
            folder: the run folder; files of the tracker's own belong below it.
        """

    @abstractmethod
    def step(self, values: Mapping[str, float]) -> None:
        """One verified step of one prompt: drafted, tested, accepted, emitted, kv_occupancy."""

    @abstractmethod
    def prompt(self, row: Row) -> None:
        """One prompt is done; the row is that of `rows.parquet`."""

    @abstractmethod
    def finish(self, summary: Row, rows: Sequence[Row], steps: Sequence[Row], folder: Path) -> None:
        """The job is done: what `summary.json`, `rows.parquet` and `steps.parquet` hold."""

    @abstractmethod
    def fail(self, error: str) -> None:
        """The job ended early."""

    def point(self, values: Mapping[str, float]) -> None:  # noqa: B027 - may be left out
        """One point of the curves of a job that trains: step, loss, and figures by position (`accuracy/1`, …). A
        tracker that draws no curves leaves it out."""

    def close(self) -> None:  # noqa: B027 - as above
        """A job that trains is done; it has no summary."""

    def study(self, name: str, screen: Screen, folder: Path) -> None:  # noqa: B027 - as above
        """The jobs of a study are done; no job is open. A tracker that shows no documents leaves it out.

        Args:
            name: of the study.
            screen: what it found.
            folder: of the study; files of the tracker's own belong below it.
        """


class NoTracker(Tracker):
    """Sends nothing."""

    def start(self, name: str, study: str, config: Row, environment: Row, folder: Path) -> None:
        """Nothing."""

    def step(self, values: Mapping[str, float]) -> None:
        """Nothing."""

    def prompt(self, row: Row) -> None:
        """Nothing."""

    def finish(self, summary: Row, rows: Sequence[Row], steps: Sequence[Row], folder: Path) -> None:
        """Nothing."""

    def fail(self, error: str) -> None:
        """Nothing."""


class SafeTracker(Tracker):
    """Passes everything on, until something goes wrong: then it warns once, and the run goes on untracked.

    A tracker talks to networks, accounts and disks, and its libraries raise whatever those raise. None of that may cost
    a measurement, so every exception ends here.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker = tracker

    def start(self, name: str, study: str, config: Row, environment: Row, folder: Path) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.start(name, study, config, environment, folder))

    def step(self, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.step(values))

    def prompt(self, row: Row) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.prompt(row))

    def finish(self, summary: Row, rows: Sequence[Row], steps: Sequence[Row], folder: Path) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.finish(summary, rows, steps, folder))

    def fail(self, error: str) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.fail(error))

    def point(self, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.point(values))

    def close(self) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.close())

    def study(self, name: str, screen: Screen, folder: Path) -> None:
        """See `Tracker`."""
        self._guarded(lambda: self._tracker.study(name, screen, folder))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            name = type(self._tracker).__name__
            self._tracker = NoTracker()
            warnings.warn(f"{name} is off from here on, the run goes on: {type(error).__name__}: {error}", stacklevel=3)
