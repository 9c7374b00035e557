"""The first screen of the page for places that run no script: one document, and its leaderboard as cells."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import jinja2
import vl_convert
from markupsafe import Markup

from specdec.measure.runs import Run
from specdec.pages import policy, style
from specdec.report.answer import answer
from specdec.report.charts import figures
from specdec.report.differences import contests
from specdec.report.files import standalone
from specdec.report.methods import methods
from specdec.report.tables import COLUMNS, blocks
from specdec.tracking.base import Screen

SHOWN = ("speedup", "time")
"""Figures: speedups with their intervals, 1.00 and τ; and where the time goes."""
WIDTH = 640
"""Of the drawing area of a chart, in pixels."""


def first_screen(runs: Sequence[Run], title: str) -> Screen:
    """The finding of each condition and why, the speedups, the leaderboard, and where the time goes.

    Args:
        runs: of one study, of which one at least is done.
        title: its name.
    """
    drawn = {figure.key: figure for figure in figures(methods(runs))}
    found = blocks(runs)
    templates = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = templates.from_string((files("specdec.report") / "screen.html.j2").read_text(encoding="utf-8"))
    document = template.render(
        title=title,
        policy=policy(style_src="'unsafe-inline'"),
        style=Markup(style()),
        answers=[(one.condition, " ".join(answer(one))) for one in contests(runs)],
        charts={
            key: (drawn[key], Markup(vl_convert.vegalite_to_svg(standalone(drawn[key], drawn[key].records, WIDTH))))
            for key in SHOWN
            if key in drawn
        },
        columns=COLUMNS,
        blocks=found,
    )
    rows = [[condition, *cells] for condition, of in found for cells in of]
    return Screen(document, ("Condition", *COLUMNS), rows)
