"""The drafting half of a step: who is asked, for how much, and whether what comes back is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from specdec.drafters.base import Drafter
from specdec.engine.scheduler import Scheduled
from specdec.errors import SpecdecError
from specdec.policy.product import DraftController
from specdec.verify.tree import DraftTree

SMOOTHING = 0.9
"""Share of the old estimate of a drafter's time that a new measurement leaves."""


class Drafting:
    """Gets one tree for every scheduled request.

    Args:
        drafter: proposes.
        controller: decides how deep; None leaves every draft at full length.
    """

    def __init__(self, drafter: Drafter, controller: DraftController | None = None) -> None:
        self.drafter, self._controller = drafter, controller
        self._level_seconds = 0.0

    def propose(self, plan: Sequence[Scheduled]) -> list[DraftTree]:
        """One tree per scheduled request; empty for those that prefill, may not draft, or had better not."""
        depths = [part.num_draft_tokens for part in plan]
        if not self.drafter.deterministic:
            depths = self._chosen(plan, depths, [0] * len(plan))
        asking = [index for index, depth in enumerate(depths) if depth > 0]
        trees = [DraftTree()] * len(plan)
        if not asking:
            return trees
        requests = [replace(plan[index].draft_request(), num_draft_tokens=depths[index]) for index in asking]
        began = perf_counter()
        for index, tree in zip(asking, self.drafter.propose(requests), strict=True):
            trees[index] = _checked(self.drafter, tree, depths[index])
        if self.drafter.deterministic:
            # Such a draft is a function of the committed tokens, and so is its kind: it may be cut after it was made.
            found = self._chosen(plan, [tree.depth for tree in trees], [tree.kind for tree in trees])
            return [tree.truncated(depth) for tree, depth in zip(trees, found, strict=True)]
        if levels := max(tree.depth for tree in trees):
            spent = (perf_counter() - began) / levels
            known = self._level_seconds or spent  # the first draft tells what the next one will take
            self._level_seconds = SMOOTHING * known + (1 - SMOOTHING) * spent
        return trees

    def observe(self, request_id: int, tree: DraftTree, path: Sequence[int]) -> None:
        """Passes a verdict on."""
        self.drafter.observe(request_id, tree, path)
        if self._controller is not None:
            self._controller.observe(request_id, tree, len(path))

    def timed(self, plan: Sequence[Scheduled], trees: Sequence[DraftTree], seconds: float) -> None:
        """Tells what the target's pass took."""
        if self._controller is not None:
            rows = sum(len(part.tail) + len(tree) for part, tree in zip(plan, trees, strict=True))
            self._controller.timed(rows, seconds, _cached(plan))

    def finished(self, request_id: int) -> None:
        """Forgets a request."""
        if self._controller is not None:
            self._controller.release(request_id)

    def _chosen(self, plan: Sequence[Scheduled], depths: list[int], kinds: list[int]) -> list[int]:
        """The controller's depths for requests whose text does not depend on their drafts; the others keep theirs."""
        if self._controller is None:
            return depths
        free = [index for index, part in enumerate(plan) if depths[index] > 0 and part.request.rule.draft_invariant]
        fixed = sum(depth for index, depth in enumerate(depths) if index not in free)
        rows = sum(len(part.tail) for part in plan) + fixed
        asked = [(plan[index].request.id, kinds[index], depths[index]) for index in free]
        found = self._controller.depths(asked, rows, len(plan), _cached(plan), self._level_seconds)
        chosen = list(depths)
        for index, depth in zip(free, found, strict=True):
            chosen[index] = depth
        return chosen


def _cached(plan: Sequence[Scheduled]) -> int:
    """Tokens that a pass finds in the cache, roughly: those of a prompt that is still to be computed count too."""
    return sum(len(part.request.tokens) for part in plan)


def _checked(drafter: Drafter, tree: DraftTree, depth: int) -> DraftTree:
    """A tree that keeps within what was asked for: slots were reserved for no more."""
    limit = drafter.max_nodes(depth)
    if len(tree) > limit or tree.depth > depth:
        raise SpecdecError(
            f"Drafter {drafter.name!r} proposed {len(tree)} nodes of depth {tree.depth}; asked for were at most "
            f"{limit} nodes (its own max_nodes) of depth {depth}."
        )
    return tree
