"""Which methods of a study differ in speed: paired tests on the prompts that they share.

Runs that differ in their seed alone are one method here: of a prompt that was decoded several times, the mean of the
logarithms counts once. Only methods that were measured under the same condition are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import exp, log
from statistics import fmean, stdev
from string import ascii_lowercase

from specdec.measure.paired import LEVEL, PairedRatio, groups, holm, paired_ratio
from specdec.measure.runs import Run
from specdec.report.leaderboard import ALL, Standing, standings
from specdec.report.methods import CONDITIONS, SEED, condition, methods, name_without
from specdec.report.tokens import PromptKey
from specdec.stats import NOBODY

COLUMNS = ("method", "speedup", "group", "over the leader (95 %)", "p", "prompts")
EXPLAINED = (
    "Over the leader: speedup of the method divided by that of the leader on the same prompt. It is a geometric mean "
    "over prompts, with its 95 % interval. p: p value of the paired t test on the logarithms, after Holm's correction "
    "over all pairs of the table. Group: methods that share a letter do not differ significantly (5 % level)."
)
MIN_PROMPTS = 2
"""Prompts that two methods must share before anything is said of their difference."""


@dataclass(frozen=True)
class Entrant:
    """A method over its seeds.

    Args:
        name: its label without the condition and the seed.
        standings: of all prompts, one a seed.
    """

    name: str
    standings: Sequence[Standing]

    @property
    def speedup(self) -> float | None:
        """Mean over seeds; None unless each seed has one that is evidence and not above τ."""
        found = [one.speedup for one in self.standings if one.ranked and one.speedup is not None]
        return fmean(found) if len(found) == len(self.standings) else None

    @property
    def refused(self) -> bool:
        """Whether a seed's speedup is above τ."""
        return any(one.refused for one in self.standings)

    @property
    def plain(self) -> bool:
        """Whether it is plain decoding itself."""
        return all(one.method.run.axes.get("drafter") == NOBODY for one in self.standings)

    @property
    def spread(self) -> str:
        """Of the speedup: the 95 % interval of a single run, the standard deviation between several seeds, or ""."""
        if len(self.standings) == 1:
            return self.standings[0].interval
        return f"± {stdev(one.speedup or 0.0 for one in self.standings):.2f}" if self.speedup is not None else ""

    @property
    def shown(self) -> str:
        """Its speedup with the spread, or "–"."""
        within = f" ({self.spread})" if self.spread else ""
        return "–" if self.speedup is None else f"{self.speedup:.2f}{within}"

    @property
    def keys(self) -> list[int]:
        """Of its runs."""
        return [one.method.key for one in self.standings]

    def mean(self, figure: str) -> float:
        """A scalar of the summary, over seeds."""
        return fmean(one.figures[figure] for one in self.standings)

    @cached_property
    def by_prompt(self) -> dict[PromptKey, float]:
        """Prompt → geometric mean of its speedups; without prompts that have none."""
        logs: dict[PromptKey, list[float]] = {}
        for row in (row for one in self.standings for row in one.method.run.rows):
            if row.get("speedup"):
                logs.setdefault((row["category"], row["question_id"], row["prompt"]), []).append(log(row["speedup"]))
        return {prompt: exp(fmean(values)) for prompt, values in logs.items()}


@dataclass(frozen=True)
class Contest:
    """The methods of one condition.

    Args:
        condition: in words; "" if all runs share it.
        ranked: those with a speedup that counts, the fastest first.
        errors: those whose speedup is above τ; they are compared with nobody.
        others: those that have no speedup, or none that is evidence.
        pairs: two places in `ranked`, the smaller one first → their ratio, p after Holm's correction; without
            those that share fewer than two prompts.
    """

    condition: str
    ranked: Sequence[Entrant]
    errors: Sequence[Entrant]
    others: Sequence[Entrant]
    pairs: Mapping[tuple[int, int], PairedRatio]

    def different(self, first: int, second: int) -> bool:
        """Whether two places are certain not to be alike.

        Args:
            first, second: places in `ranked`, the smaller one first.
        """
        return (first, second) in self.pairs and self.pairs[first, second].p < LEVEL

    @property
    def letters(self) -> list[str]:
        """Of each ranked method, the groups that it belongs to."""
        found = groups(len(self.ranked), self.different)
        return [
            " ".join(_letter(number) for number, group in enumerate(found) if place in group)
            for place in range(len(self.ranked))
        ]

    @property
    def rows(self) -> list[list[str]]:
        """Cells of the columns `COLUMNS`."""
        return [
            [
                one.name,
                one.shown,
                letters,
                *_cells(self.pairs.get((0, place)), place),
            ]
            for place, (one, letters) in enumerate(zip(self.ranked, self.letters, strict=True))
        ]


def contests(runs: Sequence[Run]) -> list[Contest]:
    """One for each condition.

    Args:
        runs: of one study.
    """
    seeds: dict[str, list[Standing]] = {}
    for one in standings(methods(runs)):
        if one.category == ALL:
            others = {axis: value for axis, value in one.method.run.axes.items() if axis != SEED}
            seeds.setdefault(json.dumps(others, sort_keys=True, default=str), []).append(one)
    places: dict[str, list[Entrant]] = {}
    for group in seeds.values():
        method = group[0].method
        places.setdefault(condition(method), []).append(Entrant(name_without(method, *CONDITIONS, SEED), group))
    return [_contest(where, entrants) for where, entrants in places.items()]


def markdown(contest: Contest) -> list[str]:
    """Lines of a document."""
    lines = [f"### {contest.condition}", ""] if contest.condition else []
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells)} |" for cells in contest.rows]
    if contest.errors:
        lines += ["", f"Not ranked, because their speedup is above τ: {', '.join(one.name for one in contest.errors)}."]
    return lines


def _contest(where: str, entrants: Sequence[Entrant]) -> Contest:
    counted = [one for one in entrants if one.speedup is not None]
    ranked = sorted(counted, key=lambda one: -(one.speedup or 0.0))
    raw = {
        (first, second): paired_ratio(*zip(*shared, strict=True))
        for first, second in combinations(range(len(ranked)), 2)
        if len(shared := _shared(ranked[first], ranked[second])) >= MIN_PROMPTS
    }
    adjusted = holm([one.p for one in raw.values()])
    pairs = {places: replace(one, p=p) for (places, one), p in zip(raw.items(), adjusted, strict=True)}
    errors = [one for one in entrants if one.refused]
    others = [one for one in entrants if one not in errors and one.speedup is None]
    return Contest(where, ranked, errors, others, pairs)


def _shared(one: Entrant, other: Entrant) -> list[tuple[float, float]]:
    """Speedups of the prompts that both decoded."""
    return [(ratio, other.by_prompt[key]) for key, ratio in one.by_prompt.items() if key in other.by_prompt]


def _cells(pair: PairedRatio | None, place: int) -> list[str]:
    """Of a method against the leader: the ratio, p, and the prompts."""
    if pair is None or pair.low is None:
        return ["leader" if place == 0 else "–", "–", "–"]
    ratio = f"{1 / pair.ratio:.3f} ({1 / pair.high:.3f}–{1 / pair.low:.3f})" if pair.high else "–"
    return [ratio, told(pair.p), str(pair.prompts)]


def told(p: float) -> str:
    """A p value for readers.

    >>> told(0.0421), told(0.00004)
    ('0.042', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _letter(number: int) -> str:
    """a, b, …, z, a1, b1, …"""
    round_, place = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(round_) if round_ else "")
