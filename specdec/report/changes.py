"""Two studies of the same jobs, such as before and after a change of the code, or on two machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdec.measure.paired import PairedRatio, holm, paired_ratio
from specdec.measure.runs import Run
from specdec.report.differences import told
from specdec.report.leaderboard import ALL, NOT_CREDIBLE, Standing, standings
from specdec.report.methods import methods
from specdec.report.tokens import PromptKey

STUDY = "study"
"""The axis that says which study a run is of."""
COLUMNS = ("method", "speedup before", "after", "after / before (95 %)", "p", "tokens/s", "τ before", "after")
EXPLAINED = (
    "Jobs with the same settings in both studies. After / before: ratio of the two speedups of a prompt, geometric "
    "mean over the shared prompts, with its 95 % interval. p: p value of the paired t test for no change, after Holm's "
    "correction over all rows. Tokens/s: the same ratio, of tokens per second; it also compares two machines."
)


@dataclass(frozen=True)
class Change:
    """One job in both studies.

    Args:
        name: its label.
        before, after: its standings.
        speedup, speed: ratio of after over before, of the speedup and of tokens per second; None if no prompt has both.
    """

    name: str
    before: Standing
    after: Standing
    speedup: PairedRatio | None
    speed: PairedRatio | None

    @property
    def cells(self) -> list[str]:
        """Of the columns `COLUMNS`."""
        p = "–" if self.speedup is None or self.speedup.low is None else told(self.speedup.p)
        speeds = [NOT_CREDIBLE if one.refused else _fixed(one.speedup) for one in (self.before, self.after)]
        taus = [_fixed(one.figures["tau"]) for one in (self.before, self.after)]
        return [self.name, *speeds, _ratio(self.speedup), p, _ratio(self.speed), *taus]


def changes(before: Sequence[Run], after: Sequence[Run]) -> list[Change]:
    """Jobs that are done in both studies, in the order of the first study's ranking; p after Holm's correction."""
    later = {_settings(one): one for one in _all_prompts(after)}
    found = []
    for one in _all_prompts(before):
        if (other := later.get(_settings(one))) is not None:
            honest = one.ranked and other.ranked
            speedup = _paired(one, other, "speedup") if honest else None
            found.append(Change(one.method.label, one, other, speedup, _paired(one, other, "tokens_per_second")))
    tested = [one for one in found if one.speedup is not None]
    adjusted = iter(holm([one.speedup.p for one in tested if one.speedup is not None]))
    return [
        one if one.speedup is None else replace(one, speedup=replace(one.speedup, p=next(adjusted))) for one in found
    ]


def together(before: Sequence[Run], after: Sequence[Run], names: tuple[str, str]) -> list[Run]:
    """The runs of both as one study, in which they differ by the axis `STUDY`.

    Args:
        before, after: runs.
        names: of the two studies.
    """
    return [
        replace(run, axes={**run.axes, STUDY: name})
        for name, runs in zip(names, (before, after), strict=True)
        for run in runs
    ]


def _all_prompts(runs: Sequence[Run]) -> list[Standing]:
    return [one for one in standings(methods(runs)) if one.category == ALL]


def _settings(one: Standing) -> str:
    return json.dumps(one.method.run.axes, sort_keys=True, default=str)


def _paired(before: Standing, after: Standing, figure: str) -> PairedRatio | None:
    old, new = _by_prompt(before, figure), _by_prompt(after, figure)
    shared = [prompt for prompt in old if prompt in new]
    return paired_ratio([new[prompt] for prompt in shared], [old[prompt] for prompt in shared]) if shared else None


def _by_prompt(one: Standing, figure: str) -> dict[PromptKey, float]:
    """Of a prompt that was decoded several times, the first."""
    found: dict[PromptKey, float] = {}
    for row in one.method.run.rows:
        value: Any = row.get(figure)
        if value:
            found.setdefault((row["category"], row["question_id"], row["prompt"]), float(value))
    return found


def _ratio(pair: PairedRatio | None) -> str:
    if pair is None:
        return "–"
    return f"{pair.ratio:.3f}" if pair.low is None else f"{pair.ratio:.3f} ({pair.low:.3f}–{pair.high:.3f})"


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
