"""Methods by categories of prompts, a table for each condition under which they were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from specdec.measure.markdown import table
from specdec.measure.runs import Run
from specdec.report.leaderboard import ALL, NOT_CREDIBLE, NOT_RELIABLE, Standing, categories, standings
from specdec.report.methods import CONDITIONS, condition, methods, name_without, varying_axes

COSTS = ("drafting", "MB")
"""Columns of what a method costs: drafting of a step over a plain step, and the drafters' memory."""


@dataclass(frozen=True)
class Board:
    """The methods that were measured under one condition.

    Args:
        condition: in words; "" if all runs share it.
        columns: headings.
        rows: cells of every method, the fastest first.
    """

    condition: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def boards(runs: Sequence[Run]) -> list[Board]:
    """One for each condition, numbers by size. A cell is the speedup, its 95 % interval, and τ.

    Args:
        runs: of one study; those without figures are left out.
    """
    found = standings(methods(runs))
    kinds = categories(found)
    groups: dict[str, list[Standing]] = {}
    values = varying_axes(runs)
    axes = [axis for axis in CONDITIONS if axis in values]
    for one in sorted(found, key=lambda one: [values[axis].index(one.method.axes[axis]) for axis in axes]):
        groups.setdefault(condition(one.method), []).append(one)
    return [Board(name, ["method", *COSTS, *kinds], _rows(group, kinds)) for name, group in groups.items()]


def markdown(board: Board) -> list[str]:
    """Lines of a document."""
    lines = [f"### {board.condition}", ""] if board.condition else []
    return [*lines, *table([board.columns, *board.rows]).splitlines()]


def notes(runs: Iterable[Run]) -> list[str]:
    """What the study's settings say to the reader."""
    return [note for note in dict.fromkeys(run.config.get("note") for run in runs) if note]


def _rows(group: Sequence[Standing], kinds: Sequence[str]) -> list[list[str]]:
    of: dict[int, dict[str, Standing]] = {}
    for one in sorted(group, key=_fastest_first):
        of.setdefault(one.method.key, {})[one.category] = one
    return [
        [
            name_without(by_kind[ALL].method, *CONDITIONS),
            *_costs(by_kind[ALL]),
            *(_cell(by_kind.get(kind)) for kind in kinds),
        ]
        for by_kind in of.values()
    ]


def _fastest_first(one: Standing) -> tuple[bool, float, float]:
    return one.category != ALL, -(one.speedup or 0.0), -one.figures["tau"]


def _costs(one: Standing) -> list[str]:
    cost = one.figures["drafting_cost"]
    return ["–" if cost is None else f"{cost:.1%}", f"{one.figures['drafter_memory_mb']:.1f}"]


def _cell(one: Standing | None) -> str:
    if one is None:
        return "–"
    tau = f"τ {one.figures['tau']:.2f}"
    if one.refused:
        return f"{NOT_CREDIBLE}; {tau}"
    if one.speedup is None:
        return tau
    told = ", ".join(part for part in (one.interval, "" if one.method.evidence else NOT_RELIABLE) if part)
    return f"{one.speedup:.2f} ({told}); {tau}" if told else f"{one.speedup:.2f}; {tau}"
