"""How many drafts a policy leaves out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Tally:
    """Counts the drafts that a policy could take.

    Args:
        offered: drafts that were there, or could have been drawn.
        left_out: those of them of which no node was taken.
        row: time of a pass with one more row, over that of the same pass without it, in the last step.
    """

    offered: int = 0
    left_out: int = 0
    row: float = 1.0

    def note(self, offered: int, left_out: int, costs: Sequence[float]) -> None:
        """Adds a step.

        Args:
            offered, left_out: drafts of this step.
            costs: seconds of the step with 0, 1, 2, … rows of drafts.
        """
        self.offered += offered
        self.left_out += left_out
        self.row = costs[1] / costs[0] if len(costs) > 1 else self.row

    def account(self, policy: str) -> str:
        """A sentence, if most drafts were left out."""
        if 2 * self.left_out <= self.offered:
            return ""
        return (
            f"policy={policy} left out {self.left_out} of {self.offered} drafts, because they would not pay: a pass "
            f"with one more row takes {self.row:.2f} times as long here, and too few of their tokens are accepted. "
            "policy=always verifies every draft."
        )
