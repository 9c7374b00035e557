"""What a grammar makes likely is drafted before any drafter is asked: it costs next to nothing, and is mostly right.

It is verified like any draft. A text may be spelt by other tokens than those that its tokenizer makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from specdec.drafters.base import Drafter
from specdec.engine.asking import Asking, allowed
from specdec.engine.limits import Bounds
from specdec.engine.scheduled import Scheduled
from specdec.foreign import STOPS
from specdec.policy.base import Candidate
from specdec.verify.tree import DraftTree

FORCED = "forced"
"""Stands where a drafter's name does. Where a drafter goes on below, its own name follows: `forced+ngram`."""


@dataclass(frozen=True)
class Forcing:
    """Drafts of requests with grammars.

    Args:
        drafters: by their names; those that extend drafts go on below what is forced.
        bounds: what each of them may return. Forced drafts keep to those of a request's first drafter.
        asking: asks drafters.
    """

    drafters: Mapping[str, Drafter]
    bounds: Mapping[str, Bounds]
    asking: Asking

    def drafts(
        self, plan: Sequence[Scheduled], first: Callable[[Scheduled], Candidate | None]
    ) -> dict[int, tuple[DraftTree, str]]:
        """By their numbers in the plan, the requests whose grammars make likely what comes next: that, and a name.

        Args:
            plan: the requests.
            first: a request's first drafter, and how deep it may draft.
        """
        drafts: dict[int, tuple[DraftTree, str]] = {}
        for index, part in enumerate(plan):
            candidate = first(part) if part.request.params.grammar is not None else None
            if candidate is not None and len(tree := self._forced(part, candidate)):
                drafts[index] = self._gone_on(part, candidate, tree)
        return drafts

    def _forced(self, part: Scheduled, candidate: Candidate) -> DraftTree:
        """It depends on the committed tokens alone. A constraint that raises is the request's own affair, and will end
        it when its logits are read; here it costs the draft."""
        constraint, rule = part.request.transform.constraint, part.request.rule
        try:
            if constraint is None:
                return DraftTree()
            if not (rule.trees and rule.deterministic_trees):
                return DraftTree.chain(constraint.forced()[: self._nodes(candidate)])
            return DraftTree.from_chains(constraint.likely(candidate.depth, self._nodes(candidate)))
        except STOPS:
            raise
        except BaseException:
            return DraftTree()

    def _gone_on(self, part: Scheduled, candidate: Candidate, tree: DraftTree) -> tuple[DraftTree, str]:
        """With what the drafter adds, if there is room. Its nodes come last, so that the first ones are a tree."""
        drafter, room = self.drafters[candidate.drafter], self._nodes(candidate)
        if not (drafter.extends and drafter.deterministic) or len(tree) >= room:
            return tree, FORCED
        larger = self.asking.extend(drafter, part.draft_request(candidate.depth), tree)
        larger = allowed(part, larger.of(range(min(room, len(larger)))))
        return (larger, f"{FORCED}+{drafter.name}") if len(larger) > len(tree) else (tree, FORCED)

    def _nodes(self, candidate: Candidate) -> int:
        return self.bounds[candidate.drafter].nodes(candidate.depth)
