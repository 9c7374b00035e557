"""Parts that the configs of these tests name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.drafters.ngram import NgramDrafter
from specdec.policy.base import Ask, Choice, Load, Policy
from specdec.tracking import NoTracker
from specdec.tracking.base import Screen


class Turns(Policy):
    """Takes the drafters in turns."""

    name = "turns"

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """The next candidate, for all."""
        self._turn += 1
        candidates = [ask.candidates[self._turn % len(ask.candidates)] for ask in asks]
        return [[Choice(one.drafter, one.depth)] for one in candidates]


class Hoarder(NgramDrafter):
    """Three megabytes."""

    name = "hoarder"

    def memory(self) -> int:
        """In bytes."""
        return 3 * 2**20


class Forgetful(NgramDrafter):
    """Does not know what it holds."""

    name = "forgetful"

    def memory(self) -> int:
        """Never told."""
        raise RuntimeError("no idea")


class Showing(NoTracker):
    """Keeps the documents of studies beside them."""

    def study(self, name: str, screen: Screen, folder: Path) -> None:
        (folder / f"{name}.html").write_text(screen.html, encoding="utf-8")
        (folder / f"{name}.txt").write_text("\n".join(row[1] for row in screen.rows), encoding="utf-8")


class Killing(NoTracker):
    """Takes its process down, without a warning, when a prompt is done."""

    def __init__(self, after: int) -> None:
        self._left = after

    def prompt(self, row: Mapping[str, Any]) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
