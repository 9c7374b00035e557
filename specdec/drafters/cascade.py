"""One drafter goes on where another one stops: a cheap one below, and beside, what a dearer or surer one drafted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from specdec.cache import PagedCache, Pool
from specdec.checks import either, instance, several, take, text, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.sizes import MOST_NODES
from specdec.errors import ConfigError
from specdec.registry import DRAFTERS
from specdec.verify.tree import KINDS, ROOT, DraftTree, TreeShape

ASSUMED = 0.5
"""Chance of a node whose drafter gives none."""
STAGES = several(
    either(text(), instance(Drafter, "a drafter")), "at least two drafters, or names of drafters", least=2, most=8
)


class CascadeDrafter(Drafter):
    """The first drafter drafts. Each further one adds to its draft, and drafts alone if there is none.

    Source: the horizontal cascade of Chen et al. 2023 (CS-Drafting, arXiv 2312.11462): later positions, which are
    seldom reached, are drafted by cheaper drafters. Of all nodes the `max_nodes` of largest survival are kept, by the
    chances that the drafters give; a policy weighs them again.

    What the first drafter draws from a q that the rule needs stays as it is: a node that is not drawn cannot be added
    to it without one.

    A stage that is a drafter of the same engine, by its name or as it was given, is that drafter, so that it keeps its
    tables once.

    Args:
        stages: drafters, or their names, the first one to draft first; all others can extend drafts.
        max_nodes: most tokens of a draft; those that the first drafter draws are never left out.

    Raises:
        ConfigError: if a later stage cannot extend drafts, or draws.
    """

    name = "cascade"

    def __init__(self, stages: Sequence[str | Drafter] = ("suffix", "recycling"), max_nodes: int = 16) -> None:
        self._listed: Sequence[str | Drafter] = take("stages", stages, STAGES)
        self._made = [DRAFTERS.create(one) if isinstance(one, str) else one for one in self._listed]
        self.stages: list[Drafter] = list(self._made)
        self._own: list[Drafter] = list(self._made)
        """Those that are not the engine's: their lives are told from here."""
        self.most: int = take("max_nodes", max_nodes, whole(1, MOST_NODES))
        super().__init__(shape=self._fitted())
        self._needs: list[Needs] = []
        self._together = Needs()
        self._kinds: dict[tuple[int, int], int] = {}
        """Stage and kind of a node there → its kind here. There are `KINDS`, in the order in which they are met; what
        comes after them is of the last kind."""

    def _fitted(self) -> TreeShape:
        """The shape that the stages give the whole; what else follows from them is taken over.

        Raises:
            ConfigError: if they do not fit together.
        """
        for stage in self.stages[1:]:
            if not (stage.extends and stage.deterministic):
                raise ConfigError(
                    f"Drafter {stage.name!r} cannot extend the draft of another one. Put it first, or leave it out."
                )
        self.deterministic = self.stages[0].deterministic
        self.shares = any(stage.shares for stage in self.stages)
        deepest = max(self.stages, key=lambda stage: stage.num_draft_tokens)
        return deepest.shape if self.stages[0].trimmable else self.stages[0].shape

    @property
    def lead(self) -> str:
        """The first stage, if it is a drafter of the engine."""
        return self.name if self.stages[0] in self._own else self.stages[0].name

    def join(self, others: Mapping[str, Drafter]) -> None:
        """Takes those of the engine's drafters that its stages are."""
        self.stages, self._own, self.parts = [], [], ()
        for listed, made in zip(self._listed, self._made, strict=True):
            other = others.get(made.name)
            if other is not None and (isinstance(listed, str) or other is listed):
                self.stages.append(other)
                self.parts += (other.name,)
            else:
                self.stages.append(made)
                self._own.append(made)
        for stage in self._own:
            stage.join(others)
            self.parts += stage.parts
        self.shape = self._fitted()

    @property
    def trimmable(self) -> bool:
        """As the first stage's."""
        return self.stages[0].trimmable

    @property
    def ranks(self) -> bool:
        """As the first stage, which has the say over what is drawn."""
        return self.stages[0].ranks

    @property
    def trees(self) -> bool:
        """Whether a node may have several candidates."""
        return any(stage.trees for stage in self.stages) or len(self.stages) > 1

    def bind(self, target: TargetHandle) -> Needs:
        """Binds its own stages."""
        self._needs = [stage.bind(target) for stage in self._own]
        self._together = Needs.together(self._needs)
        return self._together

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """Gives each of its own stages its pools."""
        rest = iter(pools)
        for stage, needs in zip(self._own, self._needs, strict=True):
            stage.attach(cache, [next(rest) for _ in needs.pools])

    def vocabulary(self) -> Mapping[str, int] | None:
        """The first stage's."""
        return self.stages[0].vocabulary()

    def max_nodes(self, max_depth: int) -> int:
        """The nodes that are kept, or those that the first stage draws."""
        drawn = 0 if self.deterministic else self.stages[0].max_nodes(max_depth)
        return max(drawn, min(self.most, sum(stage.max_nodes(max_depth) for stage in self.stages)))

    def memory(self) -> int:
        """Of its own stages."""
        return sum(stage.memory() for stage in self._own)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The first stage's trees, and what the others add."""
        given = self.stages[0].propose(requests)
        marked = [self._marked(0, tree, 0, ()) for tree in given]
        open_trees = [index for index, tree in enumerate(given) if tree.q is None]
        trees = [_with_chances(given[index]) for index in open_trees]
        kinds = [marked[index] for index in open_trees]
        asked = [requests[index] for index in open_trees]
        for number, stage in enumerate(self.stages[1:], 1):
            larger = stage.extend(asked, trees)
            kinds = [
                self._marked(number, new, len(old), own) for new, old, own in zip(larger, trees, kinds, strict=True)
            ]
            trees = larger
        drafts = list(given)
        for index, tree, own in zip(open_trees, trees, kinds, strict=True):
            free = self.deterministic or (self.trimmable and requests[index].rule.draft_invariant)
            fixed = 0 if free else len(given[index])
            marked_tree = DraftTree(tree.tokens, tree.parents, None, own, tree.chances)
            drafts[index] = self._cut(marked_tree, fixed, requests[index].max_depth)
        return drafts

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Tells its own stages that listen; what this drafter proposed, the first stage counts as its own."""
        leads = {self.name: self.stages[0].name}
        for stage, needs in zip(self._own, self._needs, strict=True):
            if type(stage).observe is not Drafter.observe or "observe" in vars(stage):
                stage.observe([one.shown_to(needs, self._together).told_to(stage.name, leads) for one in outcomes])

    def forget(self, request_id: int) -> None:
        """Tells its own stages."""
        for stage in self._own:
            stage.forget(request_id)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Tells its own stages."""
        for stage in self._own:
            stage.end(request_id, tokens)

    def _marked(self, stage: int, tree: DraftTree, known: int, kinds: tuple[int, ...]) -> tuple[int, ...]:
        """Kinds of all nodes, of which the first `known` have theirs, and the others are a stage's."""
        new = [(stage, kind) for kind in tree.node_kinds[known:]]
        return kinds + tuple(self._kinds.setdefault(each, min(len(self._kinds), KINDS - 1)) for each in new)

    def _cut(self, tree: DraftTree, fixed: int, max_depth: int) -> DraftTree:
        """The nodes of largest survival, as many as a draft may have; the first `fixed` ones stay."""
        if len(tree) <= self.most and tree.depth <= max_depth:
            return tree
        survivals: list[float] = []
        for node, (parent, chance) in enumerate(zip(tree.parents, tree.chances, strict=True)):
            above = 1.0 if parent == ROOT else survivals[parent]
            survivals.append(1.0 if node < fixed else above * chance)
        order = sorted(range(len(tree)), key=lambda node: (node >= fixed, -survivals[node], node))
        kept = sorted(order[: max(self.most, fixed)])
        inside = [node for node in kept if tree.depths[node] < max_depth]
        return tree if len(inside) == len(tree) else tree.of(inside)


def _with_chances(tree: DraftTree) -> DraftTree:
    return tree if tree.chances else replace(tree, kinds=tree.node_kinds, chances=(ASSUMED,) * len(tree))
