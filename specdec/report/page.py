"""The page as text: a template, its style, its script and the runs' data in one file.

Nothing is loaded: a Content-Security-Policy forbids all requests, and of scripts it allows those whose hashes it names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from specdec.measure.runs import Run
from specdec.pages import hashes, policy, style
from specdec.places import write
from specdec.report.answer import answer
from specdec.report.board import notes
from specdec.report.changes import COLUMNS as CHANGES
from specdec.report.changes import EXPLAINED as CHANGES_EXPLAINED
from specdec.report.changes import Change
from specdec.report.charts import figures
from specdec.report.choices import chosen, drafters
from specdec.report.differences import COLUMNS, EXPLAINED, contests
from specdec.report.files import FONT, LEGEND, light_colors
from specdec.report.leaderboard import (
    ALL,
    NOT_CREDIBLE,
    NOT_RELIABLE,
    Standing,
    categories,
    origins,
    standings,
    verdict,
)
from specdec.report.marks import CONFIG, Figure
from specdec.report.methods import (
    CONDITIONS,
    DRAFTER,
    RULE,
    Method,
    axis_name,
    common_axes,
    methods,
    telling_axes,
)
from specdec.report.seeds import COLUMNS as SEED_COLUMNS
from specdec.report.seeds import across_seeds
from specdec.report.text import ACROSS_SEEDS
from specdec.report.tokens import token_view
from specdec.verify.shape import RANKS

PACKAGE = files("specdec.report")
VEGA_LITE = "6.4"
WIDTH = 480
"""Of the drawing area of a chart's file, in pixels."""
MOST = 10
"""Runs in a chart with lines or bars for each of them."""


def write_report(runs: Sequence[Run], path: str | Path, title: str, changed: Sequence[Change] = ()) -> Path:
    """Writes the dashboard of a study.

    Args:
        runs: of one study, in any state.
        path: the HTML file; folders on the way are made.
        title: heading of the page.
        changed: jobs of two studies, if the runs are of two.

    Returns:
        The file.
    """
    write(Path(path), render(runs, title, changed))
    return Path(path)


def render(runs: Sequence[Run], title: str, changed: Sequence[Change] = ()) -> str:
    """The dashboard as HTML; see `write_report`."""
    named = methods(runs)
    charts, rows, tokens = figures(named), standings(named), token_view(named)
    scripts = [Markup(_vega()), *(Markup(_own(name)) for name in ("page.js", "pdf.js", "downloads.js"))]
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template.filters.update(fixed=_fixed, cell=_cell, verdict=verdict, axis=axis_name)
    return template.from_string(_own("template.html.j2")).render(
        title=title,
        policy=policy(script_src=hashes(*scripts), style_src="'unsafe-inline'", img_src="data:"),
        style=Markup(style() + _own("style.css")),
        scripts=scripts,
        data=_embedded(_data(named, rows, charts, tokens, title)),
        methods=named,
        done=[method for method in named if method.done],
        ended_early=[method for method in named if not method.done and not method.coming],
        coming=[method for method in named if method.coming],
        states=Counter(method.run.status for method in named if method.coming),
        common=common_axes(runs),
        chief={DRAFTER, RULE, *CONDITIONS},
        axes=telling_axes(runs),
        figures=charts,
        standings=rows,
        categories=categories(rows),
        every=ALL,
        not_credible=NOT_CREDIBLE,
        not_reliable=NOT_RELIABLE,
        tokens=tokens,
        chosen=chosen(named),
        drafters=drafters(named),
        notes=notes(runs),
        ranks=RANKS,
        most=MOST,
        origins=origins(named),
        across_seeds=across_seeds(runs),
        seeds={"columns": SEED_COLUMNS, "caption": ACROSS_SEEDS},
        contests=(found := contests(runs)),
        changes={"rows": changed, "columns": CHANGES, "caption": CHANGES_EXPLAINED},
        answers=[(one.condition, *answer(one)) for one in found],
        differences={"columns": COLUMNS, "caption": EXPLAINED},
    )


def _data(
    named: Sequence[Method], rows: Sequence[Standing], charts: Sequence[Figure], tokens: dict[str, Any], title: str
) -> dict[str, Any]:
    """What the page's scripts work on."""
    return {
        "name": re.sub(r"\W+", "-", title).strip("-") or "study",
        "paper": {"colors": light_colors(), "font": FONT, "legend": LEGEND, "width": WIDTH},
        "runs": [{"key": method.key, "name": method.run.name, "axes": method.axes} for method in named],
        "config": CONFIG,
        "most": MOST,
        "ranked": list(dict.fromkeys(row.method.key for row in rows)),
        "figures": {
            figure.key: {
                "spec": figure.spec | {"description": f"{figure.title}. Its data is in the table below."},
                "records": figure.records,
                "columns": figure.columns,
                "titled": figure.titled,
                "limited": figure.limited,
            }
            for figure in charts
        },
        "tokens": tokens,
    }


def _embedded(data: dict[str, Any]) -> Markup:
    """JSON that cannot end its own script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _vega() -> str:
    """Vega, Vega-Lite and their embedding, as they come inside of vl-convert."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return bundle


def _own(name: str) -> str:
    return (PACKAGE / name).read_text(encoding="utf-8")


def _fixed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _cell(value: Any) -> str:
    """A cell of a figure's table: numbers to four digits."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
