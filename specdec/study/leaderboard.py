"""One row a method, for a terminal, a document, or a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from specdec.tracking.runs import Run

COLUMNS = ("method", "speedup (95 %)", "predicted", "τ", "α", "tokens/s", "draft/verify/host", "wasted", "identical")
NOT_CREDIBLE = "> τ: measure again"


def varying_axes(runs: Sequence[Run]) -> list[str]:
    """Axes in which the jobs that have them differ; drafter and rule always."""
    names = dict.fromkeys(name for run in runs for name in run.axes)
    values = {name: {str(run.axes[name]) for run in runs if name in run.axes} for name in names}
    return [name for name in names if name in ("drafter", "rule") or len(values[name]) > 1]


def method(run: Run, axes: Sequence[str]) -> str:
    """What a reader calls the job: drafter, rule, and whatever else varies."""
    rest = [f"{name}={run.axes[name]}" for name in axes if name not in ("drafter", "rule") and name in run.axes]
    return " ".join([f"{run.axes['drafter']} + {run.axes['rule']}", *rest])


def ranked(runs: Sequence[Run]) -> list[Run]:
    """Jobs that are done, the fastest first; without a plain side, by τ."""
    done = [run for run in runs if run.status == "done"]
    return sorted(
        done, key=lambda run: (run.summary["metrics"]["speedup"] or 0, run.summary["metrics"]["tau"]), reverse=True
    )


def speedup_cell(metrics: Mapping[str, Any], side_by_side: bool = False) -> str:
    """The speedup with its interval, or why it is not shown."""
    if metrics["speedup"] is None:
        return "–"
    if not metrics["credible"]:
        return NOT_CREDIBLE
    mark = " (jobs ran side by side)" if side_by_side else ""
    return f"{metrics['speedup']:.2f} ({metrics['speedup_low']:.2f} to {metrics['speedup_high']:.2f}){mark}"


def cells(run: Run, axes: Sequence[str]) -> list[str]:
    """A row, as text."""
    told = run.summary["metrics"]
    predicted = told["predicted_speedup"]
    return [
        method(run, axes),
        speedup_cell(told, run.environment["side_by_side"]),
        "–" if predicted is None else f"{predicted:.2f}",
        f"{told['tau']:.2f}",
        f"{told['alpha']:.2f}",
        f"{told['tokens_per_second']:.1f}",
        "/".join(f"{told[f'{part}_share']:.0%}" for part in ("draft", "verify", "host")),
        f"{told['wasted_share']:.0%}",
        "–" if told["identical"] is None else f"{told['identical']}/{told['comparable']}",
    ]


def table(runs: Sequence[Run], title: str) -> Table:
    """For the terminal."""
    axes = varying_axes(runs)
    made = Table(*COLUMNS, title=title, box=box.SIMPLE_HEAD)
    for run in ranked(runs):
        made.add_row(*cells(run, axes))
    return made


def markdown(runs: Sequence[Run], title: str) -> str:
    """The same as a document, with what it was measured on and what went wrong."""
    axes = varying_axes(runs)
    lines = [f"# {title}", "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells(run, axes))} |" for run in ranked(runs)]
    for run in runs:
        if run.status != "done":
            reason = (run.error or "was interrupted; the same command goes on").strip().splitlines()[-1]
            lines += ["", f"{run.status.capitalize()}: {method(run, axes)}: {reason}"]
    machines = dict.fromkeys(run.environment["machine"] for run in runs)
    commands = dict.fromkeys(run.environment["command"] for run in runs)
    lines += ["", *(f"Measured on {machine}." for machine in machines), "", *(f"`{command}`" for command in commands)]
    return "\n".join(lines) + "\n"


def write(runs: Sequence[Run], title: str, folder: Path) -> None:
    """leaderboard.md and leaderboard.json."""
    (folder / "leaderboard.md").write_text(markdown(runs, title), encoding="utf-8")
    told = [
        {"name": run.name, "status": run.status, "axes": run.axes, **run.summary.get("metrics", {})} for run in runs
    ]
    (folder / "leaderboard.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
