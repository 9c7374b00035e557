"""A policy whose errors end here: what it does wrong costs drafts, never a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specdec.engine.faults import POLICY, Contained, Faults, check_choice, check_depth, check_each
from specdec.engine.limits import Bounds
from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Choice, Drafted, Load, Policy
from specdec.verify.tree import DraftTree


class Chooser:
    """Asks a policy, checks what it says, and tells it what came of it.

    Args:
        policy: who drafts, and how deep.
        faults: takes its errors.
        bounds: how deep each drafter may draft, by its name.
    """

    def __init__(self, policy: Policy, faults: Faults, bounds: Mapping[str, Bounds]) -> None:
        self._policy, self._faults, self._bounds = policy, faults, bounds

    def prepare(self, model: CausalLM) -> None:
        """See `Policy.prepare`."""
        with self._contained("prepare"):
            self._policy.prepare(model)

    def choose(self, asks: Mapping[int, Ask], load: Load) -> dict[int, Choice]:
        """The policy's choices, by the asks' keys; none where it is wrong."""
        choices: dict[int, Choice] = {}
        given: list[object] = []
        with self._contained("choose"):
            given = check_each(self._policy.choose(list(asks.values()), load), len(asks), "choices")
        for (key, ask), choice in zip(asks.items(), given, strict=False):
            with self._contained("choose"):
                choices[key] = check_choice(choice, ask)
        return choices

    def trim(self, drafts: Sequence[Drafted], load: Load) -> list[int]:
        """To which depth the policy cuts each draft: to nothing where it is wrong."""
        depths, given = [0] * len(drafts), list[object]()
        with self._contained("trim"):
            given = check_each(self._policy.trim(drafts, load), len(drafts), "depths")
        for number, (draft, depth) in enumerate(zip(drafts, given, strict=False)):
            with self._contained("trim"):
                depths[number] = check_depth(depth, self._bounds[draft.drafter].depth)
        return depths

    def observe(self, request_id: int, drafter: str, tree: DraftTree, num_accepted: int) -> None:
        """See `Policy.observe`."""
        with self._contained("observe"):
            self._policy.observe(request_id, drafter, tree, num_accepted)

    def drafted(self, drafter: str, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        with self._contained("drafted"):
            self._policy.drafted(drafter, levels, seconds)

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
