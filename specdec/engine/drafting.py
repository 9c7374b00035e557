"""The drafting half of a step: who is asked, for how much, and whether what comes back can be verified.

The one owner of the drafters: their whole life is told from here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from specdec.drafters.base import Drafter, Needs, Outcome
from specdec.engine.asking import Asking, allowed
from specdec.engine.choosing import Chooser
from specdec.engine.faults import Faults
from specdec.engine.forcing import FORCED, Forcing
from specdec.engine.limits import DraftLimits
from specdec.engine.loads import load_of, with_rows
from specdec.engine.scheduled import Scheduled
from specdec.engine.telling import Telling
from specdec.errors import ConfigError
from specdec.models.base import PassOutput
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick, Policy
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
        self.drafters = {drafter.name: drafter for drafter, _ in drafters}
        self.faults = Faults()
        self.policy = Chooser(policy, self.faults)
        self._limits, self._bounds = limits, limits.of
        self._asking = Asking(self.faults, limits.of, torch.device(device))
        self._forcing = Forcing(self.drafters, limits.of, self._asking)
        self._telling = Telling(drafters, self.faults)
        self._known_candidates: dict[tuple[str | None, int], tuple[Candidate, ...]] = {}
        self._load = Load(0, 0)
        """Of the step, without drafts."""
        self._weighed: set[int] = set()
        """Requests of whose drafts the policy picked in this step: the text tells it how right each was."""
        self.seconds: dict[str, float] = {}
        """What each drafter took since `propose` began: for its drafts, and to be told of verdicts."""
        self.needs = self._telling.given
        """What all drafters together want of a pass."""

    def wants(self, request_id: int) -> bool:
        """Whether anybody takes notice of what a request's pass gave that verified no draft."""
        return self._telling.heard or request_id in self._weighed

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

    def propose(
        self, plan: Sequence[Scheduled], room: Callable[[int], int | None] = lambda rows: None
    ) -> list[Proposal]:
        """One proposal per scheduled request; empty for those that prefill, may not draft, or had better not. A probe
        brings its own. `room`: rows of drafts that latency goals leave beside so many others."""
        self.seconds, self._load = {}, load_of(plan, room)
        began = perf_counter()
        forced = {index: Proposal(*one) for index, one in self._forcing.drafts(plan, self._first).items()}
        if forced:
            self.seconds[FORCED] = perf_counter() - began
        chosen, asks = self._choose(plan, forced)
        drafts = self._drafts(plan, chosen)
        settled = forced | {i: own[0] for i, own in drafts.items() if not (i in asks and self._may_cut(own))}
        open_drafts = {index: own for index, own in drafts.items() if index not in settled}
        for index, ask in asks.items():
            if chosen.get(index) and not all(one.trimmable for one in ask.candidates) and index not in settled:
                open_drafts.setdefault(index, [])  # there is no draft to cut; one that draws may be chosen then
        self._weighed = {plan[index].request.id for index, own in open_drafts.items() if own and self.policy.picks}
        if open_drafts and self.policy.picks:
            settled |= self._picked(plan, open_drafts, asks, sum(len(one.tree) for one in settled.values()))
        return [settled.get(index) or Proposal(part.probe) for index, part in enumerate(plan)]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Tells every drafter of a pass, and the policy of its verdicts."""
        self._telling.observe(outcomes, self.seconds)
        for one in outcomes if self.policy.learns else ():
            if one.tokens and not one.drafter.startswith(FORCED):
                self.policy.observe(one.request_id, Draft(one.drafter, one.tree), one.path, one.tokens)

    def shown(self, output: PassOutput, prompt: bool = False) -> Tensor | None:
        """The logits of a request's rows, as far as any drafter wants them.

        Args:
            output: of its rows.
            prompt: whether they were a piece of a prompt, of which nothing was verified.
        """
        wanted = self.needs.logits
        return None if wanted == "none" or (prompt and wanted == "verified") else output.logits

    def shown_top(self, verified: PassOutput) -> Tensor | None:
        """Ids of the largest logits of a request's verified rows, if any drafter wants them."""
        return verified.top(self.needs.top) if self.needs.top else None

    def timed(self, proposals: Sequence[Proposal], seconds: float) -> None:
        """Tells the policy what the target's pass took, which had these drafts."""
        if self.policy.learns:
            self.policy.timed(with_rows(self._load, sum(len(one.tree) for one in proposals)), seconds)

    def forget(self, request_id: int) -> None:
        """The request lost its place in the cache, and will start anew."""
        self._telling.forget(request_id)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """The request ended with these tokens."""
        self._telling.end(request_id, tokens)
        self.policy.end(request_id)

    def _first(self, part: Scheduled) -> Candidate | None:
        return next(iter(self._candidates(part)), None)

    def _choose(
        self, plan: Sequence[Scheduled], settled: Collection[int]
    ) -> tuple[dict[int, list[Choice]], dict[int, Ask]]:
        """Who is asked for each request that may draft and is not settled, and what the policy was asked. It decides
        only where the text does not depend on it; the others keep to their first drafter, at full depth."""
        choices: dict[int, list[Choice]] = {}
        asks: dict[int, Ask] = {}
        for index, part in enumerate(plan):
            candidates = () if index in settled else self._candidates(part)
            if candidates and part.request.rule.draft_invariant:
                asks[index] = Ask(part.request.id, candidates)
            elif candidates:
                choices[index] = [Choice(candidates[0].drafter, candidates[0].depth)]
        fixed = sum(one.depth for chosen in choices.values() for one in chosen)
        return (choices | self.policy.choose(asks, with_rows(self._load, fixed)) if asks else choices), asks

    def _drafts(self, plan: Sequence[Scheduled], chosen: Mapping[int, Sequence[Choice]]) -> dict[int, list[Proposal]]:
        """The drafts of those that are asked, all requests of a drafter together; empty ones are left out."""
        asked: dict[str, dict[int, Choice]] = {}
        for index, choices in chosen.items():
            for one in choices:
                if one.depth > 0:
                    asked.setdefault(one.drafter, {})[index] = one
        drafts: dict[int, list[Proposal]] = {}
        for name, drafter in self.drafters.items():
            if name in asked:
                for index, tree in self._trees(drafter, plan, asked[name]):
                    drafts.setdefault(index, []).append(Proposal(tree, name))
        return drafts

    def _trees(
        self, drafter: Drafter, plan: Sequence[Scheduled], asked: Mapping[int, Choice]
    ) -> Iterator[tuple[int, DraftTree]]:
        """What a drafter drafts for those who ask it, all together; empty drafts are left out."""
        began = perf_counter()
        requests = tuple(plan[index].draft_request(one.depth, one.shape, one.floor) for index, one in asked.items())
        trees = self._asking.ask(drafter, requests)
        spent = perf_counter() - began
        self.seconds[drafter.name] = self.seconds.get(drafter.name, 0.0) + spent
        if self.policy.learns:
            self.policy.drafted(drafter.name, len(asked), max(tree.depth for tree in trees), spent)
        for index, tree in zip(asked, trees, strict=True):
            request = plan[index].request
            free = drafter.deterministic or request.rule.draft_invariant
            if len(tree) and tree.q is None and free and request.transform.constraint is not None:
                tree = allowed(plan[index], tree)
            if len(tree):
                yield index, tree

    def _picked(
        self, plan: Sequence[Scheduled], drafts: Mapping[int, Sequence[Proposal]], asks: Mapping[int, Ask], fixed: int
    ) -> dict[int, Proposal]:
        """What the policy picks of drafts that it may cut. It may also choose to have another one drawn.

        Args:
            plan: the requests.
            drafts: by their numbers in the plan.
            asks: what the policy was asked for them.
            fixed: rows of drafts that are settled.
        """
        drafted = dict[int, Drafted]()
        for index, own in drafts.items():
            there, room = tuple(Draft(one.drafter, one.tree) for one in own), self._limits.max_nodes
            drafted[index] = Drafted(plan[index].request.id, there, room(plan[index].max_depth))
        picks = self.policy.pick(drafted, asks, with_rows(self._load, fixed))
        late = {index: [pick] for index, pick in picks.items() if isinstance(pick, Choice)}
        settled = {index: own[0] for index, own in self._drafts(plan, late).items()}
        for index, pick in picks.items():
            if isinstance(pick, Draft):
                settled[index] = Proposal(pick.tree, pick.drafter)
            elif isinstance(pick, Pick) and pick.nodes:
                [tree] = (one.tree for one in drafted[index].drafts if one.drafter == pick.drafter)
                settled[index] = Proposal(tree if len(pick.nodes) == len(tree) else tree.of(pick.nodes), pick.drafter)
        return settled

    def _may_cut(self, drafts: Sequence[Proposal]) -> bool:
        """Whether the policy cuts these drafts: drawn ones stay as they are."""
        return self.policy.picks and self.drafters[drafts[0].drafter].trimmable and drafts[0].tree.q is None

    def _candidates(self, part: Scheduled) -> tuple[Candidate, ...]:
        if part.max_depth == 0:
            return ()
        key = part.request.params.drafter, part.max_depth
        if key not in self._known_candidates:
            self._known_candidates[key] = tuple(
                Candidate(drafter.name, depth, drafter.trimmable, drafter.shape)
                for drafter in self.select(part.request.params.drafter)
                if (depth := min(part.max_depth, self._bounds[drafter.name].depth)) > 0
            )
        known = self._known_candidates[key]
        if not self._telling.any_lost:
            return known
        return tuple(one for one in known if not self._telling.lost(one.drafter, part.request.id))
