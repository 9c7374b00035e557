"""One draft made of all: their nodes in one tree, each with a chance by what its drafters say and by who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from specdec.models.base import CausalLM
from specdec.policy.base import Choice, Draft, Drafted, Load, Pick
from specdec.policy.builder import speed
from specdec.policy.curve import CostCurve
from specdec.policy.product import Weighed
from specdec.policy.select import SelectPolicy
from specdec.verify.tree import KINDS, ROOT, DraftTree

BINS = 8
"""Chances that the kinds of nodes tell apart, for each set of drafters."""
EVERY = 4
"""Of so many steps with several drafts one tells what each of them adds: to merge trees without it takes time too."""
MOST_TOLD = (KINDS // BINS).bit_length() - 1
"""Drafters that the kinds tell apart; all that come after them count as one."""


class MergePolicy(SelectPolicy):
    """Merges the drafts of a request into one tree, and verifies the nodes that pay.

    Two drafters that say the same are seldom both wrong, and one that stands alone against another is wrong more often
    than it says. So a node's chance is the mean of what its drafters say, as far as nodes of about that chance, drafted
    by those very drafters, have shown to keep it (`SurvivalTable`). And where drafters disagree, both may be verified.

    A drafter is worth asking for what the tree with it promises more than the tree without it. All else is `select`'s.
    """

    name = "merge"

    def __init__(self, curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None) -> None:
        super().__init__(curve)
        self._bits: dict[str, int] = {}
        """Drafter → its bit in the sets of drafters."""
        self._trees: dict[int, Weighed] = {}
        """Request → its merged tree, in this step."""
        self._rooms: dict[int, int] = {}
        """Request → nodes that it has slots for, in this step."""
        self._merges = 0

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Draft | Choice | None]:
        """See `Policy.pick`."""
        self._trees.clear()
        self._rooms = {one.request_id: one.room for one in drafted}
        return [self._told(one, pick) for one, pick in zip(drafted, super().pick(drafted, load), strict=True)]

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        merged = self._trees.pop(request_id, None)
        super().observe(request_id, draft if merged is None else replace(draft, drafter=merged.drafter), path, tokens)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._trees.pop(request_id, None)

    def _compare(
        self, request_id: int, drafts: Sequence[Weighed], promises: Mapping[str, float], costs: Sequence[float]
    ) -> None:
        """Merges the drafts, and learns by how much the tree is better than it would be without each of them."""
        if len(drafts) < 2:
            super()._compare(request_id, drafts, promises, costs)
            return
        merged = self._trees[request_id] = self._merged(request_id, drafts)
        self._merges += 1
        if self._merges % EVERY:
            return
        whole, gains = speed(merged.wish, costs), dict.fromkeys(promises, 0.0)
        for left_out in drafts:
            others = [each for each in drafts if each is not left_out]
            without = others[0] if len(others) == 1 else self._merged(request_id, others)
            gains[left_out.drafter] = whole / speed(without.wish, costs) - 1.0
            if len(others) > 1:  # how right it would have been is learnt from the text, as of any draft
                self._shown[request_id] = (*self._shown[request_id], without.draft)
        for drafter, gain in gains.items():
            self._worth.adds(request_id, drafter, gain)

    def _first(
        self, request_id: int, weighed: Sequence[Weighed], promises: Mapping[str, float], costs: Sequence[float]
    ) -> Weighed:
        """The merged tree, if there is more than one draft."""
        merged = self._trees.get(request_id)
        if merged is None:
            return super()._first(request_id, weighed, promises, costs)
        self._shown[request_id] = (*self._shown[request_id], merged.draft)
        return merged

    def _merged(self, request_id: int, drafts: Sequence[Weighed]) -> Weighed:
        """All nodes of some drafts, or as many as there is room for, those of largest chance. It goes by the names of
        the drafters: a node that one of them lacks says something else than one that it was not asked for."""
        tree = self._union(drafts)
        room = self._rooms[request_id]
        if len(tree) > room:
            tree = tree.of(_largest(tree, room))
        return self._weighed(request_id, Draft("+".join(each.drafter for each in drafts), tree))

    def _union(self, drafts: Sequence[Weighed]) -> DraftTree:
        """All nodes of some drafts, each with the mean of the rates that its drafters give it."""
        tokens: list[int] = []
        parents: list[int] = []
        sums: list[float] = []  # of the rates that the drafters of a node give it
        counts: list[int] = []
        makers: list[int] = []
        places: dict[tuple[int, int], int] = {}
        for draft, wish in drafts:
            tree = draft.tree
            bit = 1 << self._bits.setdefault(draft.drafter, min(len(self._bits), MOST_TOLD - 1))
            at: list[int] = []
            for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
                above, before = (ROOT, 1.0) if parent == ROOT else (at[parent], wish.survivals[parent])
                place = places.setdefault((above, token), len(tokens))
                if place == len(tokens):
                    tokens.append(token)
                    parents.append(above)
                    sums.append(0.0)
                    counts.append(0)
                    makers.append(0)
                sums[place] += min(wish.survivals[node] / before, 1.0) if before > 0.0 else 0.0
                counts[place] += 1
                makers[place] |= bit
                at.append(place)
        chances = [total / count for total, count in zip(sums, counts, strict=True)]
        kinds = [each * BINS + min(int(chance * BINS), BINS - 1) for each, chance in zip(makers, chances, strict=True)]
        return DraftTree(tuple(tokens), tuple(parents), None, tuple(kinds), tuple(chances))

    def _told(self, drafted: Drafted, pick: Pick | Draft | Choice | None) -> Pick | Draft | Choice | None:
        """What the engine is told: of a merged tree the nodes that pay, by the names of the drafters that made them."""
        merged = self._trees.get(drafted.request_id)
        if merged is None or not isinstance(pick, Pick):
            self._trees.pop(drafted.request_id, None)
            return pick
        if not pick.nodes:
            return None
        tree, made = merged.draft.tree, 0
        for node in pick.nodes:
            made |= tree.kinds[node] // BINS
        names = [one.drafter for one in drafted.drafts if made >> self._bits[one.drafter] & 1]
        return Draft("+".join(names), tree.of(pick.nodes))


def _largest(tree: DraftTree, count: int) -> list[int]:
    """The nodes whose chances, multiplied from the root down to them, are largest; parents with their children."""
    values: list[float] = []
    for parent, chance in zip(tree.parents, tree.chances, strict=True):
        values.append(chance if parent == ROOT else chance * values[parent])
    ranked = sorted(range(len(values)), key=lambda node: (-values[node], node))
    return sorted(ranked[:count])
