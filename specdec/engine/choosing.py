"""A policy whose errors end here: what it does wrong costs drafts, never a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specdec.engine.answers import check_choices, check_each, check_pick
from specdec.engine.faults import POLICY, Contained, Faults
from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Choice, Draft, Drafted, Load, Pick, Policy, whole


class Chooser:
    """Asks a policy, checks what it says, and tells it what came of it.

    Args:
        policy: who drafts, and what of it is verified.
        faults: takes its errors.
    """

    def __init__(self, policy: Policy, faults: Faults) -> None:
        self._policy, self._faults = policy, faults
        self._picks = type(policy).pick is not Policy.pick

    def prepare(self, model: CausalLM) -> None:
        """See `Policy.prepare`."""
        with self._contained("prepare"):
            self._policy.prepare(model)

    def choose(self, asks: Mapping[int, Ask], load: Load) -> dict[int, list[Choice]]:
        """The policy's choices, by the asks' keys; none where it is wrong."""
        choices: dict[int, list[Choice]] = {}
        given: list[object] = []
        with self._contained("choose"):
            given = check_each(self._policy.choose(list(asks.values()), load), len(asks), "lists of choices")
        for (key, ask), chosen in zip(asks.items(), given, strict=False):
            with self._contained("choose"):
                choices[key] = check_choices(chosen, ask)
        return choices

    def pick(self, drafted: Mapping[int, Drafted], asks: Mapping[int, Ask], load: Load) -> dict[int, Pick | Choice]:
        """What the policy picks of each request's drafts, by their keys; nothing where it is wrong."""
        if not self._picks:
            return {key: whole(one.drafts[0]) for key, one in drafted.items() if one.drafts}
        picks: dict[int, Pick | Choice] = {}
        given: list[object] = []
        with self._contained("pick"):
            given = check_each(self._policy.pick(list(drafted.values()), load), len(drafted), "picks")
        for (key, one), pick in zip(drafted.items(), given, strict=False):
            with self._contained("pick"):
                if pick is not None:
                    picks[key] = check_pick(pick, one, asks[key])
        return picks

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        with self._contained("observe"):
            self._policy.observe(request_id, draft, path, tokens)

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        with self._contained("drafted"):
            self._policy.drafted(drafter, requests, levels, seconds)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        with self._contained("timed"):
            self._policy.timed(load, seconds)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        with self._contained("end"):
            self._policy.end(request_id)

    def _contained(self, when: str) -> Contained:
        return Contained(self._faults, f"{POLICY}{self._policy.name}", when)
