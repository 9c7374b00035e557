"""Which drafters are worth asking: what each one's draft adds to the others', beside the time that it takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from specdec.policy.spent import Spent
from specdec.policy.trials import Purse

SMOOTHING = 0.9
"""Weight of a request's old mean beside a new value: texts change."""
POOLED = 0.995
"""What a value of any request keeps of its weight in the mean of all, after one more: where a request begins, what the
last one ended with says little."""
SHARE = 0.001
"""Of the time of all steps, for asking a drafter that is not worth it."""
LITTLE = 0.03
"""In the first step of a request each drafter is asked that takes no more than this part of a pass: what it gains on
other texts says little of this one."""
PRIOR = 3.0
"""Promised gains, in multiples of the speed of plain decoding, that are believed before any was seen."""
MEMORY = 0.999
"""What a gain keeps of its weight after one more of its drafter. One step tells little: a gain of a twentieth is a
tenth of what the tokens of a step scatter by."""


@dataclass
class Pooled:
    """A mean in which old values count less and less."""

    total: float = 0.0
    weight: float = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.total = POOLED * self.total + value
        self.weight = POOLED * self.weight + 1.0

    @property
    def mean(self) -> float:
        """Of one value at least."""
        return self.total / self.weight


@dataclass
class Means:
    """A smoothed number for each drafter, of each request and of all together for those that begin."""

    pool: defaultdict[str, Pooled] = field(default_factory=lambda: defaultdict(Pooled))
    own: dict[int, dict[str, float]] = field(default_factory=dict)

    def of(self, request_id: int, drafter: str, unknown: float) -> float:
        """What is known of a drafter."""
        own = self.own.get(request_id, {})
        if drafter in own:
            return own[drafter]
        return self.pool[drafter].mean if drafter in self.pool else unknown

    def observe(self, request_id: int, drafter: str, value: float) -> None:
        """One more value."""
        own = self.own.setdefault(request_id, {})
        own[drafter] = SMOOTHING * self.of(request_id, drafter, value) + (1 - SMOOTHING) * value
        self.pool[drafter].observe(value)


@dataclass
class Record:
    """What gains were promised, and what came of them; old ones count less and less."""

    promised: float = 0.0
    kept: float = 0.0

    def observe(self, promised: float, kept: float) -> None:
        """One more."""
        self.promised = MEMORY * self.promised + promised
        self.kept = MEMORY * self.kept + kept

    @property
    def ratio(self) -> float:
        """What was kept to what was promised, never below 0."""
        return max((self.kept + PRIOR) / (self.promised + PRIOR), 0.0)


class Worth:
    """Gains and times of drafters whose drafts can be trimmed.

    The drafter that promises most alone, its own time counted, is asked if it gains more than it takes. Any other is
    asked for what its draft is better than the best of the others. Of two estimates that scatter one is always the
    larger, so two drafters that say the same would both promise a gain: what they promise is scaled by what came of it,
    once the text tells how far the second best draft would have been right.
    """

    def __init__(self) -> None:
        self._asking: defaultdict[str, Spent] = defaultdict(Spent)
        """Drafter → what it takes for one request."""
        self._weighing = Spent()
        """What it takes to weigh one draft."""
        self._alone, self._beyond = Means(), Means()
        self._kept: defaultdict[str, Record] = defaultdict(Record)
        self._purses: dict[str, Purse] = {}
        self._begun: set[int] = set()
        """Requests that had their first step."""

    def asked(self, request_id: int, drafters: Sequence[str], requests: int, seconds: float) -> list[str]:
        """Those of the drafters that are worth asking for a request.

        Args:
            request_id: the request.
            drafters: names.
            requests: all that wait for the step.
            seconds: of the pass without drafts.
        """
        alone = {drafter: self._alone.of(request_id, drafter, inf) for drafter in drafters}
        times = {drafter: self._asking[drafter].seconds + self._weighing.seconds for drafter in drafters}
        prices = {drafter: requests * each / seconds for drafter, each in times.items()}  # all of them wait for it
        leader = max(drafters, key=lambda each: (1.0 + alone[each]) / (1.0 + prices[each]), default="")
        found = []
        begins = request_id not in self._begun
        self._begun.add(request_id)
        for drafter in drafters:
            gain = alone[drafter]
            if drafter != leader and gain < inf:
                gain = self._beyond.of(request_id, drafter, inf) * self._kept[drafter].ratio
            pays = gain >= prices[drafter] or (begins and prices[drafter] <= LITTLE)
            known = self._asking[drafter].known
            if pays or not known or self._purses.setdefault(drafter, Purse(SHARE)).pay(times[drafter]):
                found.append(drafter)
        return found

    def promised(self, request_id: int, speeds: Mapping[str, float], plain: float) -> None:
        """Learns what the drafters that were asked promise, in tokens a second."""
        for drafter, speed in speeds.items():
            self._alone.observe(request_id, drafter, speed / plain - 1.0)

    def adds(self, request_id: int, drafter: str, gain: float) -> None:
        """Learns by how much the step is faster with a drafter's draft than with those of the others alone: in
        multiples of the latter's speed."""
        self._beyond.observe(request_id, drafter, gain)

    def kept(self, drafter: str, promised: float, kept: float) -> None:
        """Learns by how much a drafter's chosen draft was to be faster than the second best, and was: in multiples of
        the speed of plain decoding."""
        self._kept[drafter].observe(promised, kept)

    def took(self, drafter: str, seconds: float) -> None:
        """Learns what a drafter took for one request."""
        self._asking[drafter].observe(seconds)

    def weighed(self, seconds: float) -> None:
        """Learns what it took to weigh a draft, once it was there."""
        self._weighing.observe(seconds)

    def passed(self, seconds: float) -> None:
        """A step took so long."""
        for purse in self._purses.values():
            purse.earn(seconds)

    def end(self, request_id: int) -> None:
        """Forgets a request."""
        self._alone.own.pop(request_id, None)
        self._begun.discard(request_id)
        self._beyond.own.pop(request_id, None)
