"""How much to draft: as many tokens as the measured cost of a pass and the acceptance seen so far say will pay.

A drafted token at depth i is worth its chance to be accepted: the product of the acceptance rates down to it. It costs
one more row of the pass, and every request of the pass waits for that row. The policy chooses the rows that make the
product of all requests' expected speeds largest (proportional fairness, Kelly 1997). So it weighs one request's gain
against what it takes from each of the others, and no request is left far behind: a batch ends with its slowest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log, log1p

from specdec.checks import shown
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.paths import cache_dir
from specdec.policy.base import Ask, Choice, Drafted, Load, Policy
from specdec.policy.cost import cost_curve
from specdec.policy.curve import CostCurve, LiveCurve
from specdec.verify.tree import DraftTree

PRIOR_RATE, PRIOR_WEIGHT = 0.6, 4.0
"""What is believed of an acceptance rate that was never seen: enough to try it."""
POOL_WEIGHT = 12.0
"""Observations of one request that count as much as those of all others together."""
MARGIN = 0.03
"""Drafts must promise so much more speed than none: a smaller gain is below what clock and rates can tell."""
MEMORY, FADING = 0.97, 0.99
"""An observation keeps so much of its weight after one more observation, and after a step that could have drafted and
did not. Texts change, so a drafter that was given up must be tried again; but each trial costs."""
SMOOTHING = 0.9
"""Weight of the old estimate of a drafter's time beside a new measurement."""


@dataclass
class _Rate:
    accepted: float = 0.0
    tested: float = 0.0

    def observe(self, accepted: bool) -> None:
        self.accepted = MEMORY * self.accepted + accepted
        self.tested = MEMORY * self.tested + 1

    def fade(self) -> None:
        self.accepted *= FADING
        self.tested *= FADING

    def mean(self, prior: float, weight: float) -> float:
        return (self.accepted + prior * weight) / (self.tested + weight)


Arm = tuple[str, int]
"""Drafter and kind of draft: drafts of one arm are accepted alike."""


@dataclass
class _Rates:
    """By arm and depth."""

    of: dict[tuple[Arm, int], _Rate] = field(default_factory=dict)

    def at(self, arm: Arm, depth: int) -> _Rate:
        return self.of.setdefault((arm, depth), _Rate())


class ProductPolicy(Policy):
    """Maximises the product of the requests' expected speeds.

    Args:
        curve: seconds of a pass; or how to get it for a model, which is done before the first step (left out: from a
            file if it was measured before on this machine, else by measuring). What passes take is learnt from then on.

    Raises:
        ConfigError: if the curve is none.
    """

    name = "product"

    def __init__(self, curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None) -> None:
        if not (curve is None or isinstance(curve, CostCurve) or callable(curve)):
            raise ConfigError(
                f"curve = {shown(curve)} cannot work. Give a CostCurve, a function that makes one, or None."
            )
        self._source = curve or (lambda model: cost_curve(model, cache_dir()))
        self._curve = LiveCurve(curve.check()) if isinstance(curve, CostCurve) else None
        self._pool = _Rates()
        self._requests: dict[int, _Rates] = {}
        self._level_seconds: dict[str, float] = {}

    def prepare(self, model: CausalLM) -> None:
        """See `Policy.prepare`."""
        if self._curve is None and not isinstance(self._source, CostCurve):
            self._curve = LiveCurve(self._source(model))

    def choose(self, asks: Sequence[Ask], load: Load) -> list[Choice]:
        """Trimmable drafts are asked for in full; the depth of the others is decided here."""
        choices = [self._best(ask, load) for ask in asks]
        trimmable = {(ask.request_id, each.drafter) for ask in asks for each in ask.candidates if each.trimmable}
        drawn = [i for i, ask in enumerate(asks) if (ask.request_id, choices[i].drafter) not in trimmable]
        wanted = [(asks[i].request_id, (choices[i].drafter, 0), choices[i].depth) for i in drawn]
        seconds = max((self._level_seconds.get(choices[i].drafter, 0.0) for i in drawn), default=0.0)
        for i, depth in zip(drawn, self._depths(wanted, load, seconds), strict=True):
            choices[i] = Choice(choices[i].drafter, depth)
        return choices

    def trim(self, drafts: Sequence[Drafted], load: Load) -> list[int]:
        """See `Policy.trim`. These drafts have been paid for: only their rows count."""
        wanted = [(each.request_id, (each.drafter, each.tree.node_kinds[0]), each.tree.depth) for each in drafts]
        return self._depths(wanted, load, 0.0)

    def observe(self, request_id: int, drafter: str, tree: DraftTree, num_accepted: int) -> None:
        """See `Policy.observe`."""
        for rates in (self._requests.setdefault(request_id, _Rates()), self._pool):
            for depth in range(min(num_accepted + 1, tree.depth)):
                rates.at((drafter, tree.node_kinds[0]), depth).observe(depth < num_accepted)

    def drafted(self, drafter: str, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        spent = seconds / levels
        known = self._level_seconds.get(drafter) or spent  # the first draft tells what the next one will take
        self._level_seconds[drafter] = SMOOTHING * known + (1 - SMOOTHING) * spent

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        self._live.observe(load.rows, seconds, load.cached)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        self._requests.pop(request_id, None)

    @property
    def _live(self) -> LiveCurve:
        assert self._curve is not None, "prepare() comes first"
        return self._curve

    def _best(self, ask: Ask, load: Load) -> Choice:
        """The candidate that promises the most tokens a second if this request alone drafts, at its best depth."""
        if len(ask.candidates) == 1:
            return Choice(ask.candidates[0].drafter, ask.candidates[0].depth)
        promises: list[tuple[float, int]] = []
        for index, each in enumerate(ask.candidates):
            level = 0.0 if each.trimmable else self._level_seconds.get(each.drafter, 0.0)
            speeds = [1.0 / self._live(load.rows, load.cached)]
            for rows, (tokens, chance) in enumerate(self._gained(ask.request_id, (each.drafter, 0), each.depth), 1):
                speeds.append((tokens + chance) / (self._live(load.rows + rows, load.cached) + rows * level))
            promises.append((max(speeds), -index))
        best = ask.candidates[-max(promises)[1]]
        return Choice(best.drafter, best.depth)

    def _depths(self, wanted: Sequence[tuple[int, Arm, int]], load: Load, level_seconds: float) -> list[int]:
        """How deep each request should draft. What is known of drafts that are not asked for fades.

        Args:
            wanted: request, arm, and deepest branch possible, of each draft.
            load: the pass without these drafts.
            level_seconds: what one level of all drafts takes.
        """
        gains: list[tuple[float, int, int]] = []
        for index, (request, arm, limit) in enumerate(wanted):
            for depth, (tokens, chance) in enumerate(self._gained(request, arm, limit)):
                gains.append((log1p(chance / tokens), index, depth))
        gains.sort(key=lambda item: (-item[0], item[2]))
        gained, count_kept, levels = 0.0, 0, 0
        best = load.requests * (log(1 + MARGIN) - log(self._live(load.rows, load.cached)))
        for count, (gain, _, depth) in enumerate(gains, 1):
            gained += gain
            levels = max(levels, depth + 1)
            seconds = self._live(load.rows + count, load.cached) + levels * level_seconds
            speed = gained - load.requests * log(seconds)
            if speed > best:
                best, count_kept = speed, count
        depths = [0] * len(wanted)
        for _, index, depth in gains[:count_kept]:
            depths[index] = max(depths[index], depth + 1)
        self._fade(wanted, depths)
        return depths

    def _fade(self, wanted: Sequence[tuple[int, Arm, int]], depths: Sequence[int]) -> None:
        """A step counts once for the pool, however many requests it has."""
        tried = {arm for (_, arm, _), depth in zip(wanted, depths, strict=True) if depth}
        left_out = [(request, arm) for (request, arm, _), depth in zip(wanted, depths, strict=True) if not depth]
        for request, arm in left_out:
            self._requests.setdefault(request, _Rates()).at(arm, 0).fade()
        for arm in {arm for _, arm in left_out} - tried:
            self._pool.at(arm, 0).fade()

    def _gained(self, request: int, arm: Arm, limit: int) -> Iterator[tuple[float, float]]:
        """For each depth of a draft: the tokens that the step yields without it, and those that it adds, on average."""
        chance = tokens = 1.0
        for depth in range(limit):
            chance *= self._rate(request, arm, depth)
            yield tokens, chance
            tokens += chance

    def _rate(self, request: int, arm: Arm, depth: int) -> float:
        pooled = self._pool.at(arm, depth).mean(PRIOR_RATE, PRIOR_WEIGHT)
        return self._requests.setdefault(request, _Rates()).at(arm, depth).mean(pooled, POOL_WEIGHT)
