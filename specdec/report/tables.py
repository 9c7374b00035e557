"""The methods of a study as a table for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from statistics import fmean

from specdec.measure.markdown import table
from specdec.measure.runs import Run
from specdec.report.differences import Contest, Entrant, contests
from specdec.report.leaderboard import NOT_CREDIBLE

COLUMNS = ("Method", "Speedup", "Group", "τ", "α", "Drafting", "Tokens/s")
ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "τ": r"$\tau$", "α": r"$\alpha$", "γ": r"$\gamma$",
    "±": r"$\pm$", "·": r"$\cdot$", "–": "--", ">": r"$>$", "<": r"$<$",
}  # fmt: skip
"""What LaTeX would take for something else."""

Block = tuple[str, list[list[str]]]
"""A condition in words, and the cells of its methods."""


def blocks(runs: Sequence[Run]) -> list[Block]:
    """Of each condition: ranked methods, the fastest first, then those without a speedup, then measuring errors."""
    return [(one.condition, _rows(one)) for one in contests(runs)]


def markdown(found: Sequence[Block]) -> str:
    """One table a condition."""
    lines: list[str] = []
    for condition, rows in found:
        lines += [f"**{condition}**", ""] if condition else []
        lines += [table([COLUMNS, *rows]), ""]
    return "\n".join(lines).rstrip() + "\n"


def latex(found: Sequence[Block]) -> str:
    r"""One tabular, for `\usepackage{booktabs}`; each condition is a part of it."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(COLUMNS) - 1)}}}", r"\toprule", _latex_row(COLUMNS)]
    for condition, rows in found:
        lines.append(r"\midrule")
        if condition:
            lines += [rf"\multicolumn{{{len(COLUMNS)}}}{{l}}{{\emph{{{escaped(condition)}}}}} \\", r"\midrule"]
        lines += map(_latex_row, rows)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(found: Sequence[Block]) -> str:
    """One table; the condition is its first column."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["Condition", *COLUMNS])
    rows.writerows([condition, *cells] for condition, of in found for cells in of)
    return text.getvalue()


FORMATS: dict[str, Callable[[Sequence[Block]], str]] = {"latex": latex, "markdown": markdown, "csv": as_csv}


def escaped(text: str) -> str:
    r"""A text for LaTeX.

    >>> escaped("early_exit · γ 3: 50%")
    'early\\_exit $\\cdot$ $\\gamma$ 3: 50\\%'
    """
    return "".join(ESCAPED.get(letter, letter) for letter in text)


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(escaped, cells))} \\"


def _rows(contest: Contest) -> list[list[str]]:
    rows = [_cells(one, one.shown, letters) for one, letters in zip(contest.ranked, contest.letters, strict=True)]
    rows += [_cells(one, "–", "–") for one in contest.others]
    return rows + [_cells(one, NOT_CREDIBLE, "–") for one in contest.errors]


def _cells(one: Entrant, speedup: str, letters: str) -> list[str]:
    costs = [each.figures["drafting_cost"] for each in one.standings]
    drafting = "–" if any(cost is None for cost in costs) else f"{fmean(costs):.1%}"
    shares = [f"{one.mean(name):.2f}" for name in ("tau", "alpha")]
    return [one.name, speedup, letters, *shares, drafting, f"{one.mean('tokens_per_second'):.1f}"]
