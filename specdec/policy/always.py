"""Drafts at full length, always: with this policy acceptance does not depend on the clock."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.policy.base import Ask, Choice, Load, Policy


class AlwaysPolicy(Policy):
    """Takes each request's first candidate at its full depth."""

    name = "always"

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """See `Policy.choose`."""
        return [[Choice(ask.candidates[0].drafter, ask.candidates[0].depth)] for ask in asks]
