"""Runs that differ in their seed alone, as one method: the mean over seeds, and the spread between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from specdec.measure.runs import Run
from specdec.report.leaderboard import ALL, Standing, standings
from specdec.report.methods import SEED, methods, name_without

COLUMNS = ("method", "seeds", "speedup", "τ", "α", "tokens/s")


@dataclass(frozen=True)
class Across:
    """A method over its seeds.

    Args:
        label: its name without the seed.
        standings: of all prompts, one a seed.
    """

    label: str
    standings: Sequence[Standing]

    @property
    def cells(self) -> list[str]:
        """Of a table with the columns `COLUMNS`: mean ± standard deviation between seeds. There is a speedup only if
        every seed has one that is evidence."""
        figures = [one.figures for one in self.standings]
        shown = [one.speedup for one in self.standings if one.speedup is not None and one.method.evidence]
        return [
            self.label,
            str(len(figures)),
            spread(shown) if len(shown) == len(figures) else "–",
            *(spread([told[name] for told in figures]) for name in ("tau", "alpha")),
            spread([told["tokens_per_second"] for told in figures], digits=1),
        ]


def across_seeds(runs: Sequence[Run]) -> list[Across]:
    """Methods with two seeds or more, the fastest first as in the leaderboard.

    Args:
        runs: of one study; those without figures are left out.
    """
    groups: dict[str, list[Standing]] = {}
    for one in standings(methods(runs)):
        if one.category == ALL and SEED in one.method.run.axes:
            others = {name: value for name, value in one.method.run.axes.items() if name != SEED}
            groups.setdefault(json.dumps(others, sort_keys=True, default=str), []).append(one)
    return [Across(name_without(group[0].method, SEED), group) for group in groups.values() if len(group) > 1]


def markdown(found: Iterable[Across]) -> list[str]:
    """Lines of a document."""
    rows = [f"| {' | '.join(one.cells)} |" for one in found]
    return [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *rows]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± sample standard deviation.

    >>> spread([1.0, 2.0, 3.0])
    '2.00 ± 1.00'
    """
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"
