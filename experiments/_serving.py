"""A server under load, without a model and without a clock: the real scheduler, pace, drafters and policy, over
recorded texts. A pass takes what a curve says, times luck; nothing else takes time.

What the target would say to a prompt was recorded, so a draft is verified against that. Two ways to serve differ by
what they decide and by nothing else, and a run gives the same figures everywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from experiments._simulation import GREEDY, VOCAB_SIZE, NoModel
from experiments._texts import Text
from specdec import EngineConfig, Outcome, SamplingParams
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Drafter, TargetHandle
from specdec.engine.drafting import Drafting, Proposal
from specdec.engine.limits import DraftLimits
from specdec.engine.loads import load_of, with_rows
from specdec.engine.outputs import StepOutput
from specdec.engine.pace import Pace
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.scheduler import Scheduler
from specdec.models.base import CausalLM
from specdec.policy.base import Policy
from specdec.policy.curve import CostCurve
from specdec.policy.survival import on_the_way
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform


@dataclass(frozen=True)
class Arrival:
    """A request that comes.

    Args:
        at: seconds.
        text: what is asked, and what the target says.
    """

    at: float
    text: Text


@dataclass(frozen=True)
class Served:
    """What became of a request; seconds by the simulated clock.

    Args:
        queued, first, last: when it came, and when its first and its last token were there.
        tokens: of its text.
        passes: that gave them.
    """

    queued: float
    first: float
    last: float
    tokens: int
    passes: int

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first - self.queued

    @property
    def tpot(self) -> float:
        """Seconds for each further token; 0 if there is none."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


MakePace = Callable[[PagedCache, DraftLimits, int, Callable[[], float]], Pace]
"""Cache, limits, most rows of a pass and a clock → what bounds passes."""


class Server:
    """One engine.

    Args:
        drafter: a deterministic one that does not run the target.
        policy: how much is drafted.
        pace: how large passes are.
        curve: seconds of a pass.
        config: sizes.
        noise: standard deviation of a pass's time, as a share of it.
        seed: of that luck.
    """

    def __init__(
        self,
        drafter: Drafter,
        policy: Policy,
        pace: MakePace,
        curve: CostCurve,
        config: EngineConfig,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        bound = [(drafter, drafter.bind(TargetHandle(cast(CausalLM, NoModel()))))]
        limits = DraftLimits(bound)
        assert config.num_blocks is not None
        self.now = 0.0
        self._cache = PagedCache(KVLayout(1, 1, 1), config.num_blocks, config.block_size)
        self._drafting = Drafting(bound, policy, limits)
        self._pace = pace(self._cache, limits, config.max_batch_tokens, lambda: self.now)
        sizes = config.max_batch_tokens, config.max_num_seqs
        self._scheduler = Scheduler(self._cache, limits, *sizes, lambda r: self._drafting.forget(r.id), pace=self._pace)
        self._curve, self._noise, self._random = curve, noise, Random(seed)
        self._texts: dict[int, Text] = {}

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[Served]:
        """All requests, in the order in which they end."""
        coming = deque(sorted(arrivals, key=lambda one: one.at))
        count = 0
        while coming or self._scheduler.live:
            if not self._scheduler.live:
                self.now = max(self.now, coming[0].at)
            while coming and coming[0].at <= self.now:
                self._take_in(count, coming.popleft())
                count += 1
            for request in self._step():
                assert request.first_at is not None
                yield Served(
                    request.made, request.first_at, self.now, request.stats.output_tokens, request.stats.passes
                )

    def _take_in(self, number: int, arrival: Arrival) -> None:
        prompt, answer = list(arrival.text.prompt), arrival.text.answer
        params = SamplingParams(max_tokens=len(answer))
        request = Request(
            number, prompt, params, GREEDY, LogitsTransform(params, prompt, VOCAB_SIZE), RandomSource(number), None,
            frozenset(), len(prompt) + len(answer), made=arrival.at,
        )  # fmt: skip
        self._texts[number] = arrival.text
        self._scheduler.add(request)

    def _step(self) -> list[Request]:
        """One pass; the requests that ended with it."""
        plan = self._scheduler.schedule()
        proposals = self._drafting.propose(plan, self._pace.draft_rows)
        load = with_rows(load_of(plan), sum(len(one.tree) for one in proposals))
        luck = max(1.0 + self._noise * self._random.gauss(0, 1), 0.5)
        seconds = luck * self._curve(load.rows, load.cached, load.requests)
        self.now += seconds
        self._drafting.timed(proposals, seconds)
        outputs: list[StepOutput] = []
        outcomes: list[Outcome] = []
        for part, one in zip(plan, proposals, strict=True):
            output, outcome = self._settle(part, one)
            outputs += [output] if output else []
            outcomes.append(outcome)
        self._drafting.observe(outcomes)
        for output in outputs:
            output.request.first_at = output.request.first_at or self.now
        self._pace.passed(plan, outputs)
        ended = [output.request for output in outputs if output.finish_reason is not None]
        for request in ended:
            self._scheduler.finish(request)
            self._drafting.end(request.id, request.tokens)
            del self._texts[request.id]
        return ended

    def _settle(self, part: Scheduled, proposal: Proposal) -> tuple[StepOutput | None, Outcome]:
        """As `engine.settling`, with the recorded text for a target."""
        request, tail, tree = part.request, len(part.tail), proposal.tree
        start = self._cache.length(request.id)
        if not part.decodes:
            self._cache.commit(request.id, tail)
            return None, Outcome(request.id, start, tuple(part.tail))
        text = self._texts[request.id]
        left = text.answer[len(request.tokens) - len(text.prompt) :]
        tested, path = on_the_way(tree, left[:-1])
        tokens = tuple(left[: len(path) + 1])
        request.commit(tokens, len(path))
        self._cache.commit_path(request.id, [*range(tail), *(tail + node for node in path)])
        request.stats.record_step(len(tokens), len(tree), len(tested), len(path), proposal.drafter)
        output = StepOutput(request, [], list(tokens), request.finish_reason, tree, tuple(path))
        return output, Outcome(request.id, start, tuple(part.tail), tree, proposal.drafter, tuple(path), tokens)
