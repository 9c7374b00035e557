"""The drafting half of a step: who is asked, for how much, and whether what comes back can be verified.

The one owner of the drafters: their whole life is told from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome
from specdec.engine.choosing import Chooser
from specdec.engine.faults import Contained, Faults, check_tree, check_trees
from specdec.engine.limits import DraftLimits
from specdec.engine.scheduler import Scheduled
from specdec.errors import ConfigError
from specdec.foreign import STOPS
from specdec.models.base import PassOutput
from specdec.policy.base import Ask, Candidate, Choice, Drafted, Load, Policy
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class Proposal:
    """A draft, and the name of the drafter that made it."""

    tree: DraftTree = field(default_factory=DraftTree)
    drafter: str = ""


class Drafting:
    """Gets one tree for every scheduled request, and tells the drafters what came of it.

    A drafter or a policy that raises, or returns what cannot be used, costs the requests in question their drafts, and
    the log one warning. Their texts are those of plain decoding then.

    Args:
        drafters: bound and attached, with what each of them needs; their names are distinct.
        policy: decides who drafts and how deep, for requests whose text does not depend on it.
        limits: what the drafters may return.
        device: where the target's logits are.
    """

    def __init__(
        self,
        drafters: Sequence[tuple[Drafter, Needs]],
        policy: Policy,
        limits: DraftLimits,
        device: torch.device | str = "cpu",
    ) -> None:
        self._needs = {drafter.name: needs for drafter, needs in drafters}
        self.drafters = {drafter.name: drafter for drafter, _ in drafters}
        self.faults = Faults()
        self.policy = Chooser(policy, self.faults, limits.of)
        self._bounds, self._device = limits.of, torch.device(device)
        self._listeners = {name: one for name, one in self.drafters.items() if type(one).observe is not Drafter.observe}
        """Those that would take notice of an outcome."""
        self._known_candidates: dict[tuple[str | None, int], tuple[Candidate, ...]] = {}
        self._lost: set[tuple[str, int]] = set()
        """Drafters that have lost track of a request, and are not asked for it again."""
        self.seconds: dict[str, float] = {}
        """What each drafter took since `propose` began: for its drafts, and to be told of verdicts."""
        self.hidden = tuple(sorted({boundary for needs in self._needs.values() for boundary in needs.hidden}))
        """Boundaries that any drafter wants."""
        self.logits = max((needs.logits for needs in self._needs.values()), key=["none", "verified", "all"].index)
        """The most that any drafter wants of the target's logits."""
        self.top = max(needs.top for needs in self._needs.values())
        """How many of a row's largest logits any drafter wants to be told."""

    @property
    def listens(self) -> bool:
        """Whether any drafter takes notice of passes without a draft."""
        return bool(self._listeners)

    def select(self, name: str | None) -> list[Drafter]:
        """The drafters that may serve a request: the one that it names, or all.

        Raises:
            ConfigError: for an unknown name.
        """
        if name is None:
            return list(self.drafters.values())
        if name not in self.drafters:
            raise ConfigError(f"This engine has no drafter {name!r}. Valid names: {', '.join(self.drafters)}.")
        return [self.drafters[name]]

    def propose(self, plan: Sequence[Scheduled]) -> list[Proposal]:
        """One proposal per scheduled request; empty for those that prefill, may not draft, or had better not."""
        proposals, self.seconds = [Proposal()] * len(plan), {}
        choices = self._choose(plan)
        for name, drafter in self.drafters.items():
            asked = [index for index, choice in choices.items() if choice.drafter == name and choice.depth > 0]
            if not asked:
                continue
            began = perf_counter()
            requests = tuple(plan[index].draft_request(choices[index].depth) for index in asked)
            for index, tree in zip(asked, self._ask(drafter, requests), strict=True):
                proposals[index] = Proposal(tree, name)
            self.seconds[name] = perf_counter() - began
            levels = max(proposals[index].tree.depth for index in asked)
            if levels and not drafter.deterministic:
                self.policy.drafted(name, levels, self.seconds[name])
        return self._trimmed(plan, proposals)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Tells every drafter of a pass, and the policy of its verdicts."""
        for name, drafter in self._listeners.items():
            views = [self._view(name, one) for one in outcomes if (name, one.request_id) not in self._lost]
            if not views:
                continue
            began = perf_counter()
            with Contained(self.faults, name, "observe") as contained:
                drafter.observe(views)
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - began
            if contained.failed:
                self._lose(drafter, (one.request_id for one in views))
        for one in outcomes:
            if len(one.tree):
                self.policy.observe(one.request_id, one.drafter, one.tree, len(one.path))

    def shown(self, output: PassOutput, prompt: bool = False) -> Tensor | None:
        """The logits of a request's rows, as far as any drafter wants them.

        Args:
            output: of its rows.
            prompt: whether they were a piece of a prompt, of which nothing was verified.
        """
        return None if self.logits == "none" or (prompt and self.logits == "verified") else output.logits

    def shown_top(self, verified: PassOutput) -> Tensor | None:
        """Ids of the largest logits of a request's verified rows, if any drafter wants them."""
        return verified.top(self.top) if self.top else None

    def timed(self, plan: Sequence[Scheduled], proposals: Sequence[Proposal], seconds: float) -> None:
        """Tells the policy what the target's pass took."""
        rows = sum(len(part.tail) + len(one.tree) for part, one in zip(plan, proposals, strict=True))
        self.policy.timed(Load(rows, len(plan), _cached(plan)), seconds)

    def forget(self, request_id: int) -> None:
        """The request lost its place in the cache, and will start anew."""
        self._tell_all(request_id, lambda drafter: drafter.forget(request_id))

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """The request ended with these tokens."""
        text = tuple(tokens)
        self._tell_all(request_id, lambda drafter: drafter.end(request_id, text))
        self.policy.end(request_id)

    def _choose(self, plan: Sequence[Scheduled]) -> dict[int, Choice]:
        """Who drafts for each request that may, and how deep. The policy decides only where the text does not depend on
        it; the others keep to their first drafter, at full depth."""
        choices: dict[int, Choice] = {}
        asks: dict[int, Ask] = {}
        for index, part in enumerate(plan):
            candidates = self._candidates(part)
            if candidates and part.request.rule.draft_invariant:
                asks[index] = Ask(part.request.id, candidates)
            elif candidates:
                choices[index] = Choice(candidates[0].drafter, candidates[0].depth)
        fixed = sum(choice.depth for choice in choices.values())
        return choices | self.policy.choose(asks, _load(plan, fixed)) if asks else choices

    def _candidates(self, part: Scheduled) -> tuple[Candidate, ...]:
        if part.max_depth == 0:
            return ()
        key = part.request.params.drafter, part.max_depth
        if key not in self._known_candidates:
            self._known_candidates[key] = tuple(
                Candidate(drafter.name, depth, drafter.deterministic)
                for drafter in self.select(part.request.params.drafter)
                if (depth := min(part.max_depth, self._bounds[drafter.name].depth)) > 0
            )
        if not self._lost:
            return self._known_candidates[key]
        return tuple(one for one in self._known_candidates[key] if (one.drafter, part.request.id) not in self._lost)

    def _trimmed(self, plan: Sequence[Scheduled], proposals: list[Proposal]) -> list[Proposal]:
        """Deterministic drafts without what the request's constraint forbids, cut to what the policy thinks will pay.
        Both are exact: p is zero there, and such a draft is known before anything is drawn."""
        free: list[int] = []
        for index, (part, one) in enumerate(zip(plan, proposals, strict=True)):
            if not len(one.tree) or not self.drafters[one.drafter].deterministic:
                continue
            proposals[index] = self._allowed(part, one)
            if len(proposals[index].tree) and part.request.rule.draft_invariant:
                free.append(index)
        if free:
            fixed = sum(one.tree.depth for index, one in enumerate(proposals) if index not in free)
            drafts = [Drafted(plan[i].request.id, proposals[i].drafter, proposals[i].tree) for i in free]
            for index, depth in zip(free, self.policy.trim(drafts, _load(plan, fixed)), strict=True):
                proposals[index] = Proposal(proposals[index].tree.truncated(depth), proposals[index].drafter)
        return proposals

    @staticmethod
    def _allowed(part: Scheduled, one: Proposal) -> Proposal:
        """The draft without what the request's constraint forbids. A constraint that raises is the request's own
        affair, and will end it when its logits are read; here it costs the draft."""
        try:
            dropped = part.request.transform.forbidden(one.tree.tokens, one.tree.parents)
        except STOPS:
            raise
        except BaseException:
            return Proposal()
        return Proposal(one.tree.pruned(dropped), one.drafter) if dropped else one

    def _ask(self, drafter: Drafter, requests: tuple[DraftRequest, ...]) -> list[DraftTree]:
        """A drafter's trees. If it raises for all together it is asked for one after the other, so that only those
        requests go without for which it does raise."""
        trees: list[object] = []
        with Contained(self.faults, drafter.name, "propose", quiet=len(requests) > 1) as contained:
            trees = check_trees(drafter.propose(requests), requests)
        if contained.failed:
            return [self._ask(drafter, (one,))[0] for one in requests] if len(requests) > 1 else [DraftTree()]
        return [self._checked(drafter, one, tree) for one, tree in zip(requests, trees, strict=True)]

    def _checked(self, drafter: Drafter, request: DraftRequest, tree: object) -> DraftTree:
        """The tree, or an empty one if it cannot be verified: slots were reserved for no more than was asked for."""
        with Contained(self.faults, drafter.name, "propose"):
            max_nodes = self._bounds[drafter.name].nodes(request.max_depth)
            return check_tree(tree, request, max_nodes, drafter.deterministic, self._device)
        return DraftTree()

    def _view(self, name: str, outcome: Outcome) -> Outcome:
        """What one drafter asked to see."""
        needs = self._needs[name]
        if (needs.hidden, needs.logits, needs.top) == (self.hidden, self.logits, self.top):
            return outcome
        hidden = outcome.hidden
        if hidden is not None and needs.hidden != self.hidden:
            columns = [self.hidden.index(boundary) for boundary in needs.hidden]
            hidden = hidden[:, columns] if columns else None
        logits = outcome.logits
        if logits is not None and needs.logits != self.logits:
            last = len(outcome.tree) + 1 if needs.logits == "verified" and outcome.tokens else 0
            logits = logits[-last:] if last else None
        top = outcome.top[:, : needs.top] if needs.top and outcome.top is not None else None
        return replace(outcome, hidden=hidden, logits=logits, top=top)

    def _tell_all(self, request_id: int, tell: Callable[[Drafter], None]) -> None:
        """Tells every drafter that the request's state is gone, so that none is behind with it any more."""
        for drafter in self.drafters.values():
            with Contained(self.faults, drafter.name, "forget or end"):
                tell(drafter)
            self._lost.discard((drafter.name, request_id))

    def _lose(self, drafter: Drafter, request_ids: Iterable[int]) -> None:
        """The drafter's state of these requests is not to be trusted: it lets go of them."""
        for request_id in request_ids:
            self._lost.add((drafter.name, request_id))
            with Contained(self.faults, drafter.name, "forget"):
                drafter.forget(request_id)


def _load(plan: Sequence[Scheduled], fixed: int) -> Load:
    """The pass without the drafts that are decided on; `fixed` rows are drafts that are settled."""
    return Load(sum(len(part.tail) for part in plan) + fixed, len(plan), _cached(plan))


def _cached(plan: Sequence[Scheduled]) -> int:
    """Tokens that a pass finds in the cache, roughly: those of a prompt that is still to be computed count too."""
    return sum(len(part.request.tokens) for part in plan)
