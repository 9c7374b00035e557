"""Passes under latency goals, by hand: a pass of R rows takes 10 + R milliseconds, whatever is cached."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from specdec import ConfigError, Drafter, Engine, EngineConfig, SamplingParams
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Needs
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.goals import Goals
from specdec.engine.limits import DraftLimits
from specdec.engine.outputs import StepOutput
from specdec.engine.pacing import GROW, LATE_TURN, SHRINK, GoalPace
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.scheduler import Scheduler
from specdec.policy.always import AlwaysPolicy
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.gumbel import GumbelRule
from specdec.verify.tree import DraftTree
from tests.engine.test_queue import Shaped, random_request, random_sizes
from tests.engines import NonsenseDrafter, drain, outputs, small_engine

CURVE = CostCurve((1, 101), (0.011, 0.111))


class Server:
    """A scheduler with goals whose passes take what the curve says, times `slowness`; a step gives one token."""

    def __init__(self, drafter: Drafter | None = None, max_num_seqs: int = 4, blocks: int = 400, **goals: Any) -> None:
        self.now, self.slowness = 0.0, 1.0
        self.cache = PagedCache(KVLayout(1, 1, 1), blocks, block_size=4)
        limits = DraftLimits([(drafter or NoDrafter(), Needs())])
        self.pace = GoalPace(Goals(**goals), self.cache, limits, 200, CURVE, lambda: self.now)
        self.scheduler = Scheduler(self.cache, limits, 200, max_num_seqs, pace=self.pace)

    def add(self, id: int, prompt: int, max_tokens: int = 100, made: float | None = None, rule: Any = None) -> Request:
        """Queues a request that comes now."""
        params, tokens = SamplingParams(max_tokens=max_tokens), [7] * prompt
        request = Request(
            id, tokens, params, rule or GumbelRule(), LogitsTransform(params, tokens, 100), RandomSource(0), None,
            frozenset(), prompt + max_tokens, made=self.now if made is None else made,
        )  # fmt: skip
        self.scheduler.add(request)
        return request

    def step(self, drafts: int = 0, gain: int = 1) -> list[tuple[int, int]]:
        """One pass: (request, tail rows) of each that takes part. Those that decode have as many draft rows."""
        plan = self.scheduler.schedule()
        rows = sum(len(part.tail) + drafts * part.decodes for part in plan)
        self.now += self.slowness * CURVE(rows)
        gained = []
        for part in plan:
            self.cache.commit(part.request.id, len(part.tail))
            if part.decodes:
                part.request.commit([7] * gain, gain - 1)
                self.cache.reserve(part.request.id, gain - 1)
                self.cache.commit(part.request.id, gain - 1)
                part.request.stats.record_step(gain, drafts, drafts, gain - 1)
                gained.append(StepOutput(part.request, [], [7] * gain, draft=DraftTree.chain([7] * drafts)))
        self.pace.passed(plan, gained)
        for output in gained:
            if output.request.finished:
                self.scheduler.finish(output.request)
        return [(part.request.id, len(part.tail)) for part in plan]


@pytest.mark.parametrize(("name", "value"), [("ttft_ms", 0), ("tpot_ms", -1.0), ("ttft_ms", float("nan"))])
def test_a_goal_that_is_no_time_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} = .*milliseconds"):
        Goals(**{name: value})
    with pytest.raises(ConfigError, match=r"goals = .*Goals"):
        EngineConfig(goals={"ttft_ms": 1})  # type: ignore[arg-type]


def test_whether_a_request_met_its_goals() -> None:
    goals = Goals(ttft_ms=100, tpot_ms=10)
    assert goals.met(queued=1.0, first=1.09, last=1.18, tokens=10)  # 9 intervals in 90 ms
    assert not goals.met(queued=1.0, first=1.11, last=1.12, tokens=10)
    assert not goals.met(queued=1.0, first=1.09, last=1.19, tokens=10)
    assert goals.met(queued=1.0, first=1.09, last=1.09, tokens=1)
    assert Goals(tpot_ms=10).met(queued=0.0, first=9.0, last=9.0, tokens=1)


def test_a_prompt_has_the_rows_that_fit_beside_those_who_decode() -> None:
    """A goal of 50 ms: 46 are planned, so 36 rows, of which one decodes. Nobody waits for the first prompt."""
    server = Server(tpot_ms=50)
    server.add(0, 60)
    assert server.step() == [(0, 60)]
    server.add(1, 100)
    assert server.step() == [(0, 1), (1, 35)]


def test_time_that_a_request_is_ahead_may_be_spent_on_a_prompt() -> None:
    """Two passes of 11 ms where each might have taken 50: 50 + 78 ms are left, 117.76 of them planned."""
    server = Server(tpot_ms=50)
    server.add(0, 60)
    for _ in range(3):
        server.step()
    server.add(1, 200)
    assert server.step() == [(0, 1), (1, 106)]


def test_one_that_is_late_still_gets_its_pace() -> None:
    server = Server(tpot_ms=50)
    server.add(0, 60)
    server.step()
    server.now += 5.0
    server.add(1, 100)
    assert server.step() == [(0, 1), (1, 35)]


def test_a_goal_that_one_alone_cannot_keep_holds_nobody_up() -> None:
    server = Server(tpot_ms=5)
    server.add(0, 60)
    server.step()
    server.add(1, 100)
    assert server.step() == [(0, 1), (1, 100)]


def test_no_more_begin_than_can_keep_the_pace() -> None:
    """13.5 ms: 12.42 are planned, so two rows a pass."""
    server = Server(tpot_ms=13.5)
    for id in range(3):
        server.add(id, 1, max_tokens=3)
    served = [[id for id, _ in server.step()] for _ in range(6)]
    assert served == [[0, 1]] * 3 + [[2]] * 3


def test_drafts_have_the_rows_that_are_left_and_the_curve_is_corrected() -> None:
    server = Server(NonsenseDrafter(), tpot_ms=30)
    server.add(0, 60)
    server.step()
    assert server.pace.draft_rows(1) is None  # nobody waited for that pass
    server.step(drafts=5)
    assert server.pace.draft_rows(1) == 16  # 27.6 ms of 30 are planned: 17 rows


def test_drafts_make_room_for_a_prompt_whose_first_token_is_due() -> None:
    """With 12 rows of drafts a step gives two tokens, and 29.4 ms are planned: 6 rows of the prompt in 29 ms. Without,
    14.7 ms are planned: 3 rows in 14 ms, which is faster. All 8 rows are due in a long time, or in 30 ms."""
    for ttft, drafts in ((10_000, True), (30, False)):
        server = Server(NonsenseDrafter(num_draft_tokens=12), tpot_ms=16, ttft_ms=ttft)
        server.add(0, 60, max_tokens=2000)
        for _ in range(200):
            server.step(drafts=12, gain=2)
        request = server.scheduler.running[0]
        request.first_at = server.now - 0.016 * (len(request.output) - 1)  # neither ahead nor late
        server.add(1, 8)
        server.step()
        assert (server.pace.draft_rows(1) != 0) is drafts


def test_those_that_are_late_already_go_behind_but_not_for_ever() -> None:
    server = Server(ttft_ms=100, max_num_seqs=1)
    server.now = 10.0
    server.add(0, 5, max_tokens=1, made=9.0)
    server.add(1, 5, max_tokens=1, made=9.0)
    begun: list[int] = []
    for id in range(2, 2 * LATE_TURN + 2):
        server.add(id, 5, max_tokens=1)
        begun += [one for one, _ in server.step()]
    assert begun[: 2 * LATE_TURN] == [*range(2, LATE_TURN + 1), 0, *range(LATE_TURN + 1, 2 * LATE_TURN), 1]


def test_a_machine_that_is_slower_than_the_curve_shrinks_passes_until_they_fit() -> None:
    server = Server(tpot_ms=50, max_num_seqs=2)
    server.add(0, 4, max_tokens=100_000, made=0.0)
    server.step()
    server.slowness = 2.0
    server.add(1, 1_000, max_tokens=1)
    request = server.scheduler.running[0]
    factors = []
    for _ in range(12):
        request.first_at = server.now - 0.050 * (len(request.output) - 1)
        server.step()
        factors.append(server.pace.factor)
    assert factors[:6] == pytest.approx([SHRINK**n for n in range(1, 7)])
    fitting, one_row = 25 / (0.92 * 50), 1 / (0.92 * 50)
    assert SHRINK * fitting <= min(factors) <= factors[-1] <= fitting + one_row + GROW
    server.slowness = 1.0
    for _ in range(12):
        request.first_at = server.now - 0.050 * (len(request.output) - 1)
        server.step()
    assert server.pace.factor == pytest.approx(factors[-1] + 12 * GROW)


def test_whatever_the_goals_everybody_is_served() -> None:
    """800 random sizes, goals, clocks and luck of drafts, with preemption. In each pass somebody reads or gains, so
    that all together take no more passes than they have tokens to read, for each time that they begin, and to gain."""
    preempted = held = 0
    for seed in range(800):
        draw = random.Random(seed)
        sizes = random_sizes(draw)
        limits = DraftLimits([(Shaped(shape=sizes.shape), Needs(whole_prefix=sizes.whole_prefix))])
        cache = PagedCache(KVLayout(1, 1, 1), sizes.num_blocks, sizes.block_size)
        goals = Goals(draw.choice([None, 1.0, 50.0]), draw.choice([1.0, 12.0, 20.0, 200.0]))
        clock = [0.0]
        pace = GoalPace(goals, cache, limits, sizes.max_batch_tokens, CURVE, lambda clock=clock: clock[0])
        scheduler = Scheduler(cache, limits, sizes.max_batch_tokens, sizes.max_num_seqs, pace=pace)
        requests = [random_request(draw, id, sizes.context) for id in range(6)]
        requests = [one for one in requests if cache.blocks(limits.most_rows(one)) <= sizes.num_blocks]
        for one in requests:
            one.made = 0.0
            scheduler.add(one)
        while parts := scheduler.schedule():
            assert any(part.tail for part in parts)
            clock[0] += draw.random() * 0.05
            pace.passed(parts, carried_out(cache, scheduler, parts, draw))
            held += bool(scheduler.waiting) and len(scheduler.running) < sizes.max_num_seqs
        assert all(len(one.tokens) == one.max_length for one in requests)
        preempted += sum(one.stats.preemptions for one in requests)
    assert min(preempted, held) > 50


def carried_out(
    cache: PagedCache, scheduler: Scheduler, parts: Sequence[Scheduled], draw: random.Random
) -> list[StepOutput]:
    """Tokens by luck; those that end go."""
    gained = []
    for part in parts:
        cache.commit(part.request.id, len(part.tail))
        if part.decodes:
            accepted = draw.randint(0, part.max_depth)
            cache.reserve(part.request.id, accepted)
            cache.commit(part.request.id, accepted)
            part.request.tokens.extend([0] * (accepted + 1))
            gained.append(StepOutput(part.request, [], [0] * (accepted + 1)))
            if len(part.request.tokens) == part.request.max_length:
                scheduler.finish(part.request)
    return gained


def in_time(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Request]:
    """Runs requests that come at once; with goals, each pass takes what the curve says of its rows, on any machine."""
    pace, now = engine.scheduler.pace, 0.0

    def passed(plan: Sequence[Scheduled], gained: Sequence[StepOutput]) -> None:
        nonlocal now
        now += CURVE(sum(len(part.tail) for part in plan) + sum(len(output.draft) for output in gained))
        GoalPace.passed(pace, plan, gained)  # type: ignore[arg-type]

    if isinstance(pace, GoalPace):
        pace._curve, pace._clock, pace.passed = CURVE, lambda: now, passed  # type: ignore[method-assign]
    requests = [engine.make_request(prompt, params) for prompt in prompts]
    for request in requests:
        request.made = now
        engine.add(request)
    drain(engine)
    return requests


PROMPTS = [[1, 2, 3, 1, 2, 3, 1, 2], [5, 6, 5, 6, 5], [9] * 12, [4, 4, 8, 4, 4], list(range(20))]


@pytest.mark.parametrize("rule", ["greedy", "gumbel", "token"])
def test_goals_move_drafts_by_load_where_no_text_depends_on_it_and_never_a_text(rule: str) -> None:
    """Goals that leave no room for drafts, and none at all. Under a rule whose text depends on the draft, the drafts
    are the same too."""
    params = SamplingParams(max_tokens=24, temperature=0.0 if rule == "greedy" else 1.0, seed=3)
    runs = []
    for goals in (Goals(), Goals(ttft_ms=1, tpot_ms=12)):
        drafter = NgramDrafter(num_draft_tokens=4, min_match=1)
        flat = CostCurve((1, 2), (0.01, 0.01))  # drafts cost nothing: without goals all are verified
        engine = small_engine(drafter, rule, policy=ProductPolicy(flat), max_num_seqs=3, goals=goals)
        requests = in_time(engine, PROMPTS, params)
        runs.append((outputs(requests), sum(request.stats.drafted_tokens for request in requests)))
    (texts, drafted), (texts_with_goals, drafted_with_goals) = runs
    assert texts_with_goals == texts
    assert drafted > 0
    assert (drafted_with_goals < drafted) is (rule != "token")


def test_whoever_wants_every_draft_gets_every_draft() -> None:
    engine = small_engine(NonsenseDrafter(), "greedy", policy=AlwaysPolicy(), goals=Goals(ttft_ms=1, tpot_ms=12))
    [request] = in_time(engine, [[1, 2, 3]], SamplingParams(max_tokens=8))
    assert request.stats.drafted_tokens > 0
