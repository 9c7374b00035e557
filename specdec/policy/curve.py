"""Seconds of a pass by its rows and by the tokens that they attend to: as it was measured, and as it is now."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median

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

    def beside(self, rows: int, requests: int) -> float:
        """Seconds that a cached token adds to a pass."""
        return self.per_token + self.per_row_token * max(rows / requests - 1.0, 0.0)


class LiveCurve:
    """A cost curve that follows what passes take now.

    A curve that was kept may be from another day: from a busier machine, or from older kernels. Points that passes were
    seen at are the mean of what was seen; the others move with them.

    Args:
        curve: what is believed before any pass was seen.
    """

    def __init__(self, curve: CostCurve) -> None:
        self._prior = curve
        self._rows = [rows for rows in ROWS if rows <= max(curve.rows[-1], 2)]
        self._seen: dict[int, tuple[int, float]] = {}  # rows → passes that count, their mean over the prior's time
        self._now = curve
        self._dense: list[float] = []
        """Seconds by rows, as far as they were asked for since the last change."""
        self._unheeded = 0
        """Passes that were seen since then."""

    def __call__(self, rows: int, cached: int = SHORT, requests: int = 1) -> float:
        """As `CostCurve`."""
        return self._now(rows, cached, requests)

    def costs(self, rows: int, most: int, cached: int = SHORT, requests: int = 1) -> list[float]:
        """Seconds of passes of `rows`, `rows` + 1, … `rows` + `most` rows."""
        for each in range(len(self._dense), rows + most + 1):
            self._dense.append(self._now(each, 0))
        first, step = cached * self._now.beside(rows, requests), cached * self._now.per_row_token / requests
        return [seconds + first + more * step for more, seconds in enumerate(self._dense[rows : rows + most + 1])]

    def observe(self, rows: int, seconds: float, cached: int = SHORT, requests: int = 1) -> None:
        """Learns from one pass. Longer ones than the curve's are left out."""
        if rows > self._rows[-1]:
            return
        point = min(self._rows, key=lambda each: abs(each - rows))
        count, mean = self._seen.get(point, (0, 0.0))
        ratio = seconds / self._prior(rows, cached, requests)
        if count >= FEW:
            ratio = min(ratio, OUTLIER * mean)
        self._seen[point] = min(count + 1, MOST_PASSES), mean + (ratio - mean) / min(count + 1, MOST_PASSES)
        self._unheeded += 1
        if self._unheeded >= REFRESH or count < FEW:
            self._refresh()

    def _refresh(self) -> None:
        """The curve as it is believed now."""
        level = median(mean for _, mean in self._seen.values())
        scaled: list[float] = []
        for each in self._rows:
            count, mean = self._seen.get(each, (0, 0.0))
            doubt = max(FEW - count, 0)
            factor = (count * mean + doubt * level) / (count + doubt)
            scaled.append(max(factor * self._prior(each, 0), *scaled[-1:], 0.0))
        prior = self._prior
        self._now = CostCurve(tuple(self._rows), tuple(scaled), level * prior.per_token, level * prior.per_row_token)
        self._dense, self._unheeded = [], 0
