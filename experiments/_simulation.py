"""An engine's steps over recorded texts, without a model and without a clock: a pass takes what a curve says.

Real drafters draft, a real policy decides. A draft is verified against the recorded text, which is what greedy decoding
would have said. So two policies differ by what they decide and by nothing else, and a run gives the same figures
everywhere. Of rows that were refused nothing is known, so drafters learn from accepted ones alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from experiments._texts import Text
from specdec import DraftRequest, DraftTree, SamplingParams, StepKey
from specdec.drafters.base import Drafter, Outcome, TargetHandle
from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick, Policy
from specdec.policy.curve import CostCurve
from specdec.policy.select import SelectPolicy
from specdec.policy.survival import on_the_way
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import LogitsTransform

VOCAB_SIZE = 1 << 18
"""Of the target that there is not: more than recorded texts have tokens."""


@dataclass(frozen=True)
class NoModel:
    """What a drafter without a model of its own may know of the target: its name, and how many tokens it has."""

    name: str = "recorded texts"
    vocab_size: int = VOCAB_SIZE


@dataclass(frozen=True)
class Step:
    """What one request gained in one step.

    Args:
        text: its number.
        drafter: whose draft was verified, or "".
        nodes, accepted: of the draft.
        tokens: gained.
        seconds: of the step, shared among its requests.
    """

    text: int
    drafter: str
    nodes: int
    accepted: int
    tokens: int
    seconds: float


@dataclass(eq=False)
class _Running:
    number: int
    text: Text
    done: int = 1
    """Tokens of the answer that are there; the pass over the prompt gives the first."""

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.text.prompt + self.text.answer[: self.done]

    @property
    def left(self) -> int:
        return len(self.text.answer) - self.done

    def observed(self, length: int, drafter: str, start: int) -> Outcome:
        """The outcome of rows whose draft was accepted, `length` tokens of it."""
        after = self.done + length
        chain = DraftTree.chain(self.text.answer[self.done : after])
        top = torch.tensor(self.text.top[self.done : after + 1], dtype=torch.int32)
        tail = self.text.prompt if start == 0 else self.tokens[-1:]
        return Outcome(
            self.number, start, tail, chain, drafter, tuple(range(length)), self.text.answer[self.done : after + 1],
            top=top,
        )  # fmt: skip


@dataclass(eq=False)
class Simulation:
    """Drafters and a policy at work.

    Args:
        drafters: deterministic ones, which do not run the target.
        policy: decides.
        curve: seconds of a pass.
        prices: seconds that a drafter takes for one request; 0 for those that are not named.
        batch: texts at a time.
    """

    drafters: Sequence[Drafter]
    policy: Policy
    curve: CostCurve
    prices: Mapping[str, float] = field(default_factory=dict)
    batch: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.policy, SelectPolicy):
            self.policy.clock = float  # what it takes to weigh drafts is part of what they are said to take
        for drafter in self.drafters:
            drafter.bind(TargetHandle(cast(CausalLM, NoModel())))

    def run(self, texts: Sequence[Text]) -> Iterator[Step]:
        """All steps, in the order in which they happen. Reading prompts takes no time."""
        waiting = deque(enumerate(texts))
        running: list[_Running] = []
        while waiting or running:
            while waiting and len(running) < self.batch:
                running.append(self._begin(*waiting.popleft()))
            yield from self._step([one for one in running if one.left])
            for one in [one for one in running if not one.left]:
                running.remove(one)
                self._end(one)

    def _begin(self, number: int, text: Text) -> _Running:
        started = _Running(number, text, done=0)
        self._tell([started.observed(0, "", start=0)])
        started.done = 1
        return started

    def _end(self, one: _Running) -> None:
        for drafter in self.drafters:
            drafter.end(one.number, one.tokens)
        self.policy.end(one.number)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for drafter in self.drafters:
            drafter.observe(outcomes)

    def _step(self, running: Sequence[_Running]) -> Iterator[Step]:
        if not running:
            return
        load = Load(len(running), len(running), sum(len(one.tokens) for one in running))
        chosen = self._chosen([one for one in running if one.left > 1], load)
        rows = sum(len(draft.tree) for draft in chosen.drafts.values())
        passing = self.curve(load.rows + rows, load.cached)
        self.policy.timed(Load(load.rows + rows, load.requests, load.cached), passing)
        share = (passing + chosen.seconds) / len(running)
        told: list[Outcome] = []
        for one in running:
            draft = chosen.drafts.get(one.number, Draft("", DraftTree()))
            _, path = on_the_way(draft.tree, one.text.answer[one.done : len(one.text.answer) - 1])
            gained = len(path) + 1
            told.append(one.observed(len(path), draft.drafter, start=len(one.tokens) - 1))
            self.policy.observe(one.number, draft, path, one.text.answer[one.done : one.done + gained])
            one.done += gained
            yield Step(one.number, draft.drafter, len(draft.tree), len(path), gained, share)
        self._tell(told)

    def _chosen(self, running: Sequence[_Running], load: Load) -> _Chosen:
        """As `engine.drafting`: who is asked, what they draft, and what of it is picked."""
        chosen = _Chosen()
        asks = [Ask(one.number, self._candidates(one)) for one in running]
        drafts: dict[int, list[Draft]] = {}
        choices = self.policy.choose(asks, load)
        for drafter in self.drafters:
            asked = [
                (one, choice)
                for one, each in zip(running, choices, strict=True)
                for choice in each
                if choice.drafter == drafter.name and choice.depth
            ]
            if not asked:
                continue
            trees = drafter.propose([_request(one, choice) for one, choice in asked])
            seconds = self.prices.get(drafter.name, 0.0) * len(asked)
            chosen.seconds += seconds
            self.policy.drafted(drafter.name, len(asked), max(tree.depth for tree in trees), seconds)
            for (one, _), tree in zip(asked, trees, strict=True):
                if len(tree):
                    drafts.setdefault(one.number, []).append(Draft(drafter.name, tree))
        drafted = [Drafted(number, tuple(own)) for number, own in drafts.items()]
        for each, pick in zip(drafted, self.policy.pick(drafted, load) if drafted else [], strict=True):
            if isinstance(pick, Draft):
                chosen.drafts[each.request_id] = pick
            elif isinstance(pick, Pick) and pick.nodes:
                [tree] = (draft.tree for draft in each.drafts if draft.drafter == pick.drafter)
                chosen.drafts[each.request_id] = Draft(pick.drafter, tree.of(pick.nodes))
        return chosen

    def _candidates(self, one: _Running) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(drafter.name, min(one.left - 1, drafter.num_draft_tokens), trimmable=True)
            for drafter in self.drafters
        )


@dataclass
class _Chosen:
    drafts: dict[int, Draft] = field(default_factory=dict)
    seconds: float = 0.0


TRANSFORM = LogitsTransform(SamplingParams(), [], VOCAB_SIZE)
GREEDY = RULES.create("greedy")


def _request(one: _Running, choice: Choice) -> DraftRequest:
    tokens = one.tokens
    key = StepKey(RandomSource(one.number), anchor=len(tokens))
    return DraftRequest(
        one.number, tokens, choice.depth, TRANSFORM, GREEDY, key, num_prompt_tokens=len(one.text.prompt)
    )
