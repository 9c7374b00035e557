"""The leaderboard without a browser: for a terminal, a document, or a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from specdec.measure.runs import Run
from specdec.places import write as write_file
from specdec.report.board import COSTS, boards, notes
from specdec.report.board import markdown as board_markdown
from specdec.report.differences import EXPLAINED, contests
from specdec.report.differences import markdown as differences_markdown
from specdec.report.leaderboard import ALL, NOT_CREDIBLE, NOT_RELIABLE, Standing, standings
from specdec.report.methods import methods
from specdec.report.seeds import across_seeds
from specdec.report.seeds import markdown as seeds_markdown

COLUMNS = ("method", "speedup (95 %)", "predicted", "τ", "α", "tokens/s", "draft/verify/host", "wasted", "identical")

ONE_CATEGORY = 1 + len(COSTS) + 2
"""Columns of a board over prompts of one category: it would repeat the first table."""
ACROSS_SEEDS = "Runs that differ only in their seed. Each cell is the mean ± the standard deviation between seeds."
BY_CATEGORY = (
    "Each cell: speedup over plain decoding (95 % interval); τ. Drafting: drafting time of a step, as a share of a "
    "plain step. MB: memory of the drafters."
)


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """A line a method over all its prompts, the best first; columns are `COLUMNS`."""
    return [_cells(one) for one in standings(methods(runs)) if one.category == ALL]


def table(runs: Sequence[Run], title: str) -> Table:
    """For the terminal."""
    lines = Table(*COLUMNS, title=title, box=box.SIMPLE_HEAD)
    for cells in rows(runs):
        lines.add_row(*cells)
    return lines


def markdown(runs: Sequence[Run], title: str, about: str = "") -> str:
    """The same as a document, with what it was measured on and what went wrong. `about` stands below the title."""
    lines = [
        f"# {title}",
        "",
        *([about, ""] if about else []),
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(runs)]
    found = boards(runs)
    if any(len(board.columns) > ONE_CATEGORY for board in found):
        lines += ["", "## By category", "", BY_CATEGORY]
        lines += [line for board in found for line in ("", *board_markdown(board))]
    if differ := [one for one in contests(runs) if one.pairs or one.errors]:
        lines += ["", "## Which methods differ", "", EXPLAINED]
        lines += [line for one in differ for line in ("", *differences_markdown(one))]
    if seeds := across_seeds(runs):
        lines += ["", "## Across seeds", "", ACROSS_SEEDS, "", *seeds_markdown(seeds)]
    for note in notes(runs):
        lines += ["", note]
    for method in methods(runs):
        if not method.done:
            lines += ["", f"{method.run.status.capitalize()}: {method.label}: {method.reason}"]
    machines = dict.fromkeys(str(run.environment.get("machine", "an unknown machine")) for run in runs)
    commands = dict.fromkeys(str(run.environment.get("command", "")) for run in runs)
    lines += ["", *(f"Measured on {machine}." for machine in machines), "", *(f"- `{command}`" for command in commands)]
    return "\n".join(lines) + "\n"


def write(runs: Sequence[Run], title: str, folder: Path) -> None:
    """leaderboard.md and leaderboard.json, which says of every run where it was measured."""
    write_file(folder / "leaderboard.md", markdown(runs, title))
    records = [
        {
            "name": run.name,
            "status": run.status,
            "axes": run.axes,
            **{key: run.environment.get(key) for key in ("machine", "command")},
            **run.summary.get("metrics", {}),
        }
        for run in runs
    ]
    write_file(folder / "leaderboard.json", json.dumps(records, indent=1) + "\n")


def _cells(one: Standing) -> list[str]:
    figures, predicted = one.figures, one.figures["predicted_speedup"]
    return [
        one.method.label,
        _speedup(one),
        "–" if predicted is None else f"{predicted:.2f}",
        f"{figures['tau']:.2f}",
        f"{figures['alpha']:.2f}",
        f"{figures['tokens_per_second']:.1f}",
        "/".join(f"{figures[f'{part}_share']:.0%}" for part in ("draft", "verify", "host")),
        f"{figures['wasted_share']:.0%}",
        one.identical,
    ]


def _speedup(one: Standing) -> str:
    """With its interval, or why it is not shown."""
    if one.refused:
        return NOT_CREDIBLE
    if one.speedup is None:
        return "–"
    mark = "" if one.method.evidence else NOT_RELIABLE
    told = ", ".join(part for part in (one.interval, mark) if part)
    return f"{one.speedup:.2f} ({told})" if told else f"{one.speedup:.2f}"
