"""A policy whose errors end here: what it does wrong costs drafts, never a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specdec.engine.answers import check_choices, check_each, check_pick
from specdec.engine.faults import POLICY, Contained, Faults
from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Choice, Draft, Drafted, Load, Pick, Policy

TOLD = ("prepare", "choose", "pick", "observe", "drafted", "timed", "end")
"""What a policy is told and asked."""


class Chooser:
    """Asks a policy, checks what it says, and tells it what came of it.

    Args:
        policy: who drafts, and what of it is verified.
        faults: takes its errors.
    """

    def __init__(self, policy: Policy, faults: Faults) -> None:
        self._policy = policy
        self.picks = _has_own(policy, "pick")
        """Whether it cuts drafts that are there; if not, the first one of each request is verified as it is."""
        self.learns = any(_has_own(policy, method) for method in ("observe", "drafted", "timed"))
        """Whether it takes notice of what came of its choices."""
        self._during = {when: Contained(faults, f"{POLICY}{policy.name}", when) for when in TOLD}

    def prepare(self, model: CausalLM) -> None:
        """See `Policy.prepare`."""
        with self._during["prepare"]:
            self._policy.prepare(model)

    def choose(self, asks: Mapping[int, Ask], load: Load) -> dict[int, list[Choice]]:
        """The policy's choices, by the asks' keys; none where it is wrong."""
        choices: dict[int, list[Choice]] = {}
        given: list[object] = []
        during = self._during["choose"]
        with during:
            given = check_each(self._policy.choose(list(asks.values()), load), len(asks), "lists of choices")
        for (key, ask), chosen in zip(asks.items(), given, strict=False):
            with during:
                choices[key] = check_choices(chosen, ask)
        return choices

    def pick(
        self, drafted: Mapping[int, Drafted], asks: Mapping[int, Ask], load: Load
    ) -> dict[int, Pick | Draft | Choice]:
        """What the policy picks of each request's drafts, by their keys; nothing where it is wrong."""
        picks: dict[int, Pick | Draft | Choice] = {}
        given: list[object] = []
        during = self._during["pick"]
        with during:
            given = check_each(self._policy.pick(list(drafted.values()), load), len(drafted), "picks")
        for (key, one), pick in zip(drafted.items(), given, strict=False):
            with during:
                if pick is not None:
                    picks[key] = check_pick(pick, one, asks[key])
        return picks

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        with self._during["observe"]:
            self._policy.observe(request_id, draft, path, tokens)

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        with self._during["drafted"]:
            self._policy.drafted(drafter, requests, levels, seconds)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        with self._during["timed"]:
            self._policy.timed(load, seconds)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        with self._during["end"]:
            self._policy.end(request_id)


def _has_own(policy: Policy, method: str) -> bool:
    return getattr(type(policy), method) is not getattr(Policy, method)
