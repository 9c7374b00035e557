"""Parts that the configs of these tests name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from specdec.tracking import NoTracker


class Killing(NoTracker):
    """Takes its process down, without a warning, when a prompt is done."""

    def __init__(self, after: int) -> None:
        self._left = after

    def prompt(self, row: Mapping[str, Any]) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
