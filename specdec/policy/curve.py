"""Seconds of a pass by its rows and by the tokens that they attend to: as it was measured, and as it is now."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import fmean

from specdec.checks import number, several, shown, take, whole
from specdec.errors import ConfigError

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Passes of so many rows are measured; straight lines stand for the others."""
SHORT = 128
"""Tokens that the cache holds when they are measured."""
FEW, MOST_PASSES = 3, 30
"""A point is known after so many passes; its mean is over the last ones, about so many of them."""
SECONDS = number(lambda value: 0 < value < inf, "a finite number > 0")
REFRESH = 8
"""So many passes of sizes that are known are looked at together: one changes the means by little."""
OUTLIER = 3.0
"""A pass that took more than so many times the mean was held up by something else: it counts as no more than that."""
SHYNESS = 0.005
"""How far apart the visited sizes must lie for the others to follow their trend: their measured ratios may be wrong by
0.03, and trends of 0.4 are usual; this is the square of the quotient."""
DENSE = 80
"""Rows that seconds are worked out for at once."""


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a pass by its number of rows: given at some, straight lines in between and beyond.

    Args:
        rows: increasing, at least two.
        seconds: never decreasing; without what is cached.
        per_token: seconds that every cached token of its sequences adds, where each has one row.
        per_row_token: what it adds for every row more that its sequence has: rows attend to it one by one.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    per_token: float = 0.0
    per_row_token: float = 0.0

    def check(self) -> CostCurve:
        """Itself.

        Raises:
            ConfigError: unless the rows increase and all else is finite, as described.
        """
        rows = take("rows", self.rows, several(whole(1), "at least two increasing integers >= 1", least=2))
        seconds = take("seconds", self.seconds, several(SECONDS, "as many finite numbers > 0 as rows", least=2))
        for name in ("per_token", "per_row_token"):
            take(name, getattr(self, name), number(lambda value: 0 <= value < inf, "a finite number >= 0"))
        rising = all(a < b for a, b in pairwise(rows)) and all(a <= b for a, b in pairwise(seconds))
        if len(rows) != len(seconds) or not rising:
            raise ConfigError(
                f"A cost curve of rows = {shown(rows)}, seconds = {shown(seconds)} cannot work. Give as many seconds "
                "as rows; rows increase, seconds never decrease."
            )
        return self

    def __call__(self, rows: int, cached: int = SHORT, requests: int = 1) -> float:
        """Seconds of a pass of `rows` rows whose sequences, `requests` of them, have `cached` tokens together."""
        right = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1)
        (r0, r1), (s0, s1) = self.rows[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
        return s0 + (s1 - s0) * (rows - r0) / (r1 - r0) + cached * self.beside(rows, requests)

    def up_to(self, rows: int) -> list[float]:
        """Seconds of passes of 0, 1, … `rows` rows with nothing cached."""
        seconds: list[float] = []
        last = len(self.rows) - 1
        for right in range(1, last + 1):
            (r0, r1), (s0, s1) = self.rows[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
            end = rows if right == last else min(r1, rows)
            seconds += [s0 + (s1 - s0) * (each - r0) / (r1 - r0) for each in range(len(seconds), end + 1)]
        return seconds

    def beside(self, rows: int, requests: int) -> float:
        """Seconds that a cached token adds to a pass."""
        return self.per_token + self.per_row_token * max(rows / requests - 1.0, 0.0)


class LiveCurve:
    """A cost curve that follows what passes take now.

    A curve that was kept may be from another day: from a busier machine, or from older kernels. Points that passes were
    seen at are the mean of what was seen; the others follow the trend of those. A pass costs something by itself and
    something for its rows, and the prior may be wrong about each by a factor of its own. So what is seen over the prior
    goes in a straight line with the rows' share of the pass.

    Args:
        curve: what is believed before any pass was seen.
    """

    def __init__(self, curve: CostCurve) -> None:
        self._prior = curve
        self._rows = [rows for rows in ROWS if rows <= max(curve.rows[-1], 2)]
        self._points = {rows: curve(rows, 0) for rows in self._rows}
        self._seen: dict[int, tuple[int, float]] = {}  # rows → passes that count, their mean over the prior's time
        self._trend = _Trend(inf, 0.0, 0.0)
        self._now = curve
        self._dense: list[float] = []
        """Seconds by rows, as far as they were asked for since the last change."""
        self._growth: dict[tuple[int, int], float] = {}
        """What `least_growth` was asked for since then."""
        self._unheeded = 0
        """Passes that were seen since then."""

    def __call__(self, rows: int, cached: int = SHORT, requests: int = 1) -> float:
        """As `CostCurve`."""
        return self._now(rows, cached, requests)

    def costs(self, rows: int, most: int, cached: int = SHORT, requests: int = 1) -> list[float]:
        """Seconds of passes of `rows`, `rows` + 1, … `rows` + `most` rows."""
        if len(self._dense) <= rows + most:
            self._dense = self._now.up_to(max(rows + most, DENSE))
        first, step = cached * self._now.beside(rows, requests), cached * self._now.per_row_token / requests
        return [seconds + first + more * step for more, seconds in enumerate(self._dense[rows : rows + most + 1])]

    def least_growth(self, rows: int, most: int) -> float:
        """By what factor a pass of `rows` rows, or of up to `most` more, gets longer at least by one more row."""
        known = self._growth.get((rows, most))
        if known is None:
            costs = self.costs(rows, most)
            known = self._growth[rows, most] = min(after / before for before, after in pairwise(costs))
        return known

    def observe(self, rows: int, seconds: float, cached: int = SHORT, requests: int = 1) -> None:
        """Learns from one pass. Longer ones than the curve's are left out."""
        if rows > self._rows[-1]:
            return
        right = bisect_left(self._rows, rows)
        point = self._rows[right]
        if right and rows - self._rows[right - 1] <= point - rows:
            point = self._rows[right - 1]
        count, mean = self._seen.get(point, (0, 0.0))
        usual = mean if count >= FEW else self._trend.at(self._share(point))
        ratio = min(seconds / self._prior(rows, cached, requests), OUTLIER * usual)
        self._seen[point] = min(count + 1, MOST_PASSES), mean + (ratio - mean) / min(count + 1, MOST_PASSES)
        self._unheeded += 1
        if self._unheeded >= REFRESH or count < FEW:
            self._refresh()

    def _share(self, rows: int) -> float:
        """Part of a pass, by the prior, that it takes for having more rows than the smallest."""
        return 1.0 - self._points[self._rows[0]] / self._points[rows]

    def _refresh(self) -> None:
        """The curve as it is believed now."""
        known = [rows for rows, (count, _) in self._seen.items() if count >= FEW] or list(self._seen)
        self._trend = trend = _Trend.of([(self._share(rows), self._seen[rows][1]) for rows in known])
        scaled, least = list[float](), 0.0
        for each, seconds in self._points.items():
            count, mean = self._seen.get(each, (0, 0.0))
            doubt = max(FEW - count, 0)
            factor = (count * mean + doubt * trend.at(self._share(each))) / (count + doubt)
            least = max(factor * seconds, least)
            scaled.append(least)
        beside = trend.level * self._prior.per_token, trend.level * self._prior.per_row_token
        self._now = CostCurve(tuple(self._rows), tuple(scaled), *beside)
        self._dense, self._growth, self._unheeded = [], {}, 0


@dataclass(frozen=True)
class _Trend:
    """A straight line through ratios.

    Args:
        level: their mean.
        share: where the line has that height.
        slope: of the line.
    """

    level: float
    share: float
    slope: float

    @classmethod
    def of(cls, seen: Sequence[tuple[float, float]]) -> _Trend:
        """The line through shares and their ratios: of least squares, but flatter where the shares are close together
        (ridge regression of the slope)."""
        share, level = (fmean(column) for column in zip(*seen, strict=True))
        products = sum((each - share) * (ratio - level) for each, ratio in seen)
        return cls(level, share, products / (sum((each - share) ** 2 for each, _ in seen) + SHYNESS))

    def at(self, share: float) -> float:
        """The ratio at a share; never far from the others, however long the line."""
        return min(max(self.level + self.slope * (share - self.share), self.level / OUTLIER), self.level * OUTLIER)
