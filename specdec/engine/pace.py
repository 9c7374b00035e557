"""What a scheduler asks before it plans a pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.models.base import CausalLM

UNBOUNDED = sys.maxsize


class Pace:
    """Without goals: a pass takes all that it has room for, and whoever came first begins."""

    def prepare(self, model: CausalLM) -> None:
        """Called before each step; the first call is the place to measure something."""

    def prompt_rows(self, running: Sequence[Request], waiting: Sequence[Request]) -> int:
        """Rows of prompts that the pass which begins now may have."""
        return UNBOUNDED

    def eligible(self, waiting: Sequence[Request]) -> Sequence[Request]:
        """Those who may begin next."""
        return waiting

    def admits(self, running: Sequence[Request], request: Request) -> bool:
        """Whether one more may begin. The first one always may."""
        return True

    def begins(self, request: Request) -> None:
        """One did."""

    def draft_rows(self, rows: int) -> int | None:
        """Rows of drafts that a pass may have beside so many others; None for no bound."""
        return None

    def passed(self, plan: Sequence[Scheduled], gained: Sequence[StepOutput]) -> None:
        """The pass is over."""
