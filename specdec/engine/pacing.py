"""How large a pass may be, so that requests meet their latency goals (docs/goals.md)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from time import perf_counter

from specdec.cache.paged import PagedCache
from specdec.engine.goals import Goals
from specdec.engine.limits import DraftLimits
from specdec.engine.outputs import StepOutput
from specdec.engine.pace import UNBOUNDED, Pace
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.models.base import CausalLM
from specdec.paths import cache_dir
from specdec.policy.cost import cost_curve
from specdec.policy.curve import CostCurve

HEADROOM = 0.92
"""Part of the time that a pass may take for which rows are planned; Clipper's code leaves as much."""
SHRINK, GROW = 0.9, 0.02
"""What a pass that took too long makes of the planned time, and what is added to it after one that was full and did not
(additive increase, multiplicative decrease: Crankshaw et al. 2017, section 4.3.1)."""
LEAST, MOST = 1 / 16, 4.0
"""Bounds of that factor."""
FULL = 0.8
"""A pass for which so much of its time was planned tells whether there is room for more."""
LATE_TURN = 8
"""Of so many requests that begin one is late already, if there are such: none of them waits for ever."""
SMOOTHING = 0.98
"""Weight of the old means beside one more step of a request."""
PRIOR = 8
"""Steps of a request that count as much as those of all."""
LOOKED_AT = 64
"""So many prompts that wait are looked at, the first ones."""


@dataclass(frozen=True)
class Way:
    """What a pass may be spent on.

    Args:
        seconds: that it may take; infinite if nobody waits for it.
        most: rows that are done by then.
        rows: those of requests that decode.
        drafts: whether drafts are verified that may be left out.
    """

    seconds: float
    most: int
    rows: int
    drafts: bool

    @property
    def room(self) -> int:
        """Rows that are left for prompts."""
        return max(self.most - self.rows, 0)


class GoalPace(Pace):
    """Plans passes by what they cost.

    A request that has k tokens is in time while no more than k - 1 times the goal have passed since its first one. A
    step that gives it τ tokens may last until the goal of the last of them, or for τ goals if it is late: of all
    requests the least of that is the time of the pass. The curve says how many rows fit into it, and a factor that
    follows real passes corrects it. Rows that decoding leaves are for prompts. If those would miss their goal, drafts
    that may be left out make room for them. One more request begins only if all can keep the pace then.

    Args:
        goals: at least one.
        cache: says what has been read of each request.
        limits: how many rows a draft takes that may not be left out.
        most_rows: of any pass.
        curve: seconds of a pass; None measures it before the first step, or reads what was measured before.
        clock: seconds.
    """

    def __init__(
        self,
        goals: Goals,
        cache: PagedCache,
        limits: DraftLimits,
        most_rows: int,
        curve: CostCurve | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._ttft, self._tpot = (None if goal is None else 1e-3 * goal for goal in (goals.ttft_ms, goals.tpot_ms))
        self._cache, self._limits, self._most_rows = cache, limits, most_rows
        self._curve, self._clock = curve, clock
        self.factor = 1.0
        """Of the planned time: below 1 where passes take longer than the curve says."""
        self._gain, self._drafted = 1.0, 0.0
        """Tokens that a step gives to a request, and draft rows that it has, on average."""
        self._since_late = 0
        self._began = 0.0
        self._way = Way(inf, most_rows, 0, True)

    def prepare(self, model: CausalLM) -> None:
        """See `Pace`."""
        if self._curve is None:
            self._curve = cost_curve(model, cache_dir())

    def prompt_rows(self, running: Sequence[Request], waiting: Sequence[Request]) -> int:
        """See `Pace`."""
        self._began = self._clock()
        decoding = [one for one in running if self._cache.length(one.id) == len(one.tokens) - 1]
        drafting, plain = self._way_of(decoding, drafts=True), self._way_of(decoding, drafts=False)
        pending, needed = self._prompts([one for one in running if one not in decoding], waiting)
        self._way = drafting
        if needed > (speed := self._reading(drafting, pending)) and self._reading(plain, pending) > speed:
            self._way = plain
        return self._way.room if decoding else UNBOUNDED

    def eligible(self, waiting: Sequence[Request]) -> Sequence[Request]:
        """Those who can still have their first token in time; each `LATE_TURN` times the others."""
        if self._ttft is None or not waiting or waiting[0].stats.preemptions:
            return waiting
        late = {one.id for one in waiting if self._is_late(one)}
        turn = self._since_late >= LATE_TURN - 1 or len(late) == len(waiting)
        return [one for one in waiting if (one.id in late) is turn] if late else waiting

    def admits(self, running: Sequence[Request], request: Request) -> bool:
        """Whether all can keep the pace with one more, with drafts or without. If it could not even do so alone, the
        goal is out of reach, and holds nobody up."""
        if self._tpot is None or not running:
            return True
        everyone = [*running, request]
        rows, free = self._rows_of(everyone)
        cached = sum(len(one.tokens) for one in everyone)
        for gain, drafted in ((self._gain, self._drafted), (1.0, 0.0)):
            if self._seconds(round(rows + free * drafted), cached, len(everyone)) <= self._planned(self._tpot * gain):
                return True
        return self._out_of_reach(request)

    def begins(self, request: Request) -> None:
        """See `Pace`."""
        self._since_late = 0 if self._ttft is not None and self._is_late(request) else self._since_late + 1

    def draft_rows(self, rows: int) -> int | None:
        """See `Pace`."""
        if not self._way.drafts:
            return 0
        return None if self._way.seconds == inf else max(self._way.most - rows, 0)

    def passed(self, plan: Sequence[Scheduled], gained: Sequence[StepOutput]) -> None:
        """Notes when first tokens came, what steps give, and whether the pass was too long."""
        now = self._clock()
        for output in gained:
            request = output.request
            if request.first_at is None and output.token_ids:
                request.first_at = now
            elif output.token_ids and self._way.drafts:
                self._gain = SMOOTHING * self._gain + (1 - SMOOTHING) * len(output.token_ids)
                if request.rule.draft_invariant:
                    self._drafted = SMOOTHING * self._drafted + (1 - SMOOTHING) * len(output.draft)
        rows = sum(len(part.tail) for part in plan) + sum(len(output.draft) for output in gained)
        planned = self._seconds(rows, sum(len(part.request.tokens) for part in plan), len(plan))
        self._correct(planned, now - self._began)

    def _correct(self, planned: float, took: float) -> None:
        """Follows what passes take. Where none has a bound, what was learnt fades."""
        allowed = self._way.seconds
        if allowed == inf:
            self.factor = max(self.factor, min(self.factor + GROW, 1.0))
        elif took > allowed:
            self.factor = max(SHRINK * self.factor, LEAST)
        elif planned >= FULL * self._planned(allowed):
            self.factor = min(self.factor + GROW, MOST)

    def _way_of(self, decoding: Sequence[Request], drafts: bool) -> Way:
        rows, free = self._rows_of(decoding)
        if drafts:
            rows += round(free * self._drafted)
        seconds = self._allowed(decoding, drafts)
        return Way(seconds, self._fitting(seconds, decoding), rows, drafts)

    def _rows_of(self, requests: Sequence[Request]) -> tuple[int, int]:
        """Rows of a pass in which they decode, with drafts that may not be left out; and how many others draft."""
        fixed = [self._limits.draft_rows(one) for one in requests if not one.rule.draft_invariant]
        return len(requests) + sum(fixed), len(requests) - len(fixed)

    def _allowed(self, decoding: Sequence[Request], drafts: bool) -> float:
        """Seconds that a pass may take which gives each request a token, or as many as it gets with drafts."""
        if self._tpot is None:
            return inf
        allowed = inf
        for one in decoding:
            if one.first_at is not None and not self._out_of_reach(one):
                gain = self._gain_of(one) if drafts else 1.0
                goal = one.first_at + self._tpot * (len(one.tokens) - len(one.prompt) - 1 + gain)
                allowed = min(allowed, max(goal - self._began, self._tpot * gain))
        return allowed

    def _gain_of(self, request: Request) -> float:
        """Tokens that a step gives to a request, by its own steps and those of all."""
        stats = request.stats
        return (stats.output_tokens + PRIOR * self._gain) / (stats.passes + PRIOR)

    def _out_of_reach(self, request: Request) -> bool:
        """Whether a request could not keep the pace if it were alone."""
        assert self._tpot is not None
        return self._seconds(1, len(request.tokens), 1) > self._planned(self._tpot * self._gain_of(request))

    def _fitting(self, seconds: float, requests: Sequence[Request]) -> int:
        """Most rows of a pass that are planned for these seconds."""
        if seconds == inf:
            return self._most_rows
        cached, count = sum(len(one.tokens) for one in requests), len(requests)
        rows = range(1, self._most_rows + 1)
        return bisect_right(rows, self._planned(seconds), key=lambda each: self._seconds(each, cached, count))

    def _prompts(self, reading: Sequence[Request], waiting: Sequence[Request]) -> tuple[int, float]:
        """Rows of prompts that are to be read, and how many a second so that their first tokens come in time."""
        rows, needed = 0, 0.0
        for one in islice(chain(reading, waiting), LOOKED_AT):
            rows += len(one.tokens) - (self._cache.length(one.id) if one in reading else 0)
            if self._ttft is not None and one.first_at is None:
                left = one.made + self._ttft - self._began
                needed = max(needed, rows / left) if left > 0 else needed
        return rows, needed

    def _reading(self, way: Way, pending: int) -> float:
        """Rows of prompts that are read in a second."""
        rows = min(way.room, pending)
        return rows / self._seconds(way.rows + rows, 0, 1) if rows else 0.0

    def _is_late(self, request: Request) -> bool:
        """Whether its first token cannot come in time even if it began now and were alone."""
        assert self._ttft is not None
        length = len(request.tokens)
        return self._began + self._seconds(length, length, 1) > request.made + self._ttft

    def _planned(self, seconds: float) -> float:
        """Seconds by the curve that are planned where a pass may take so many."""
        return HEADROOM * self.factor * seconds

    def _seconds(self, rows: int, cached: int, requests: int) -> float:
        assert self._curve is not None, "prepare() comes first"
        return self._curve(rows, cached, requests)
