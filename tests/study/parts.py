"""Parts that the configs of these tests name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.errors import SpecdecError
from specdec.prompts import PromptRecord
from specdec.tracking.trackers import NoTracker


class Told(NoTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Mapping[str, float]] = []
        self.prompts: list[Mapping[str, Any]] = []
        self.summary: Mapping[str, Any] = {}

    def step(self, values: Mapping[str, float]) -> None:
        self.steps.append(values)

    def prompt(self, row: Mapping[str, Any]) -> None:
        self.prompts.append(row)

    def finish(
        self,
        summary: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        steps: Sequence[Mapping[str, Any]],
        folder: Path,
    ) -> None:
        self.summary = summary


class Killing(NoTracker):
    """Takes its process down, without a warning, when a prompt is done."""

    def __init__(self, after: int) -> None:
        self._left = after

    def prompt(self, row: Mapping[str, Any]) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Missing:
    """A source that cannot be read."""

    def load(self) -> list[PromptRecord]:
        """Never."""
        raise SpecdecError("The disk is gone.")
