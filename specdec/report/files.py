"""Figures of the page as files for papers: PDF, SVG, PNG, and their data as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import vl_convert

from specdec.errors import ConfigError
from specdec.measure.runs import Run
from specdec.pages import style
from specdec.places import write
from specdec.report.charts import figures
from specdec.report.marks import CONFIG, Figure
from specdec.report.methods import Method, methods

VARIABLE = re.compile(r"var\((--[\w-]+)\)")
LEGEND = {"title": None, "orient": "bottom", "columns": 2, "labelLimit": 0, "symbolStrokeWidth": 0}
FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
PNG_SCALE = 3
"""Pixels of the file for one of the figure: about 288 an inch."""

DRAWN: dict[str, Callable[[dict[str, Any]], bytes]] = {
    ".pdf": lambda spec: bytes(vl_convert.vegalite_to_pdf(spec)),
    ".svg": lambda spec: str(vl_convert.vegalite_to_svg(spec)).encode(),
    ".png": lambda spec: bytes(vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)),
}
"""Ending of a file → what it holds."""
ENDINGS = (*DRAWN, ".csv")


def write_figure(runs: Sequence[Run], name: str, path: Path, kind: str | None, width: int) -> None:
    """Writes one figure of a study, in light colours.

    Args:
        runs: of the study.
        name: of the figure, see `figure_names`.
        path: of the file; its ending is one of `ENDINGS`.
        kind: one of the figure's choices, or None for the first.
        width: of the drawing area, in pixels.

    Raises:
        ConfigError: for a figure or a kind that the study does not have.
    """
    named = methods(runs)
    found = {figure.key: figure for figure in figures(named)}
    if name not in found:
        raise ConfigError(f"figure={name!r} is not one of this study's: {', '.join(found) or 'it has none'}.")
    figure = found[name]
    if kind is not None and kind not in figure.choices:
        raise ConfigError(f"kind={kind!r} is no kind of {name}. Its kinds: {', '.join(figure.choices) or 'none'}.")
    shown = kind or next(iter(figure.choices), None)
    records = [record for record in figure.records if shown is None or record["kind"] == shown]
    if path.suffix == ".csv":
        write(path, table_of(figure, records, named))
    else:
        write(path, DRAWN[path.suffix](standalone(figure, records, width)))


def figure_names(runs: Sequence[Run]) -> list[str]:
    """Figures that a study has data for."""
    return [figure.key for figure in figures(methods(runs))]


def table_of(figure: Figure, records: Sequence[dict[str, Any]], named: Sequence[Method]) -> str:
    """CSV: run folder, name, the axes in which runs differ, then the figure's own columns."""
    axes = list(dict.fromkeys(axis for method in named for axis in method.axes))
    columns = [name for name in figure.columns if name not in axes]
    of = {method.key: method for method in named}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["run", "method", *axes, *columns])
    for record in records:
        method = of[record["run"]]
        told = [method.axes[axis] for axis in axes]
        rows.writerow([method.run.name, record["method"], *told, *(record[name] for name in columns)])
    return text.getvalue()


def standalone(figure: Figure, records: Sequence[dict[str, Any]], width: int) -> dict[str, Any]:
    """A Vega-Lite specification that needs no page: data, colours and legend are in it."""
    shown = list(dict.fromkeys(record["method"] for record in records))
    text = json.dumps({**figure.spec, "config": {**CONFIG, "font": FONT}})
    palette = light_colors()
    spec: dict[str, Any] = json.loads(VARIABLE.sub(lambda match: palette[match[1]], text))
    if not figure.titled:
        _add_legends(spec, shown)
    kinds = {record["kind"] for record in records} if figure.choices else set()
    if len(kinds) == 1:
        _add_titles(spec, figure.choices[kinds.pop()])
    if "facet" in spec:
        spec["spec"]["width"] = width // spec["columns"]
    else:
        spec["width"] = width
    return {**spec, "background": "white", "datasets": {**spec.get("datasets", {}), "records": records}}


def _add_legends(spec: dict[str, Any], shown: Sequence[str]) -> None:
    """To every channel without one that names methods or parts; of methods, those that are drawn."""
    for part in _parts(spec):
        if "legend" in part and part["legend"] is None:
            part["legend"] = LEGEND | ({"values": shown} if part.get("field") == "method" else {})


def _add_titles(spec: dict[str, Any], title: str) -> None:
    """To every y axis without one: on the page the button beside the figure tells what is shown."""
    for part in _parts(spec):
        if isinstance(y := part.get("y"), dict) and y.get("title") == "":
            y["title"] = title


def _parts(spec: Any) -> Iterator[dict[str, Any]]:
    """All objects of a specification, each before those in it."""
    if isinstance(spec, dict):
        yield spec
    for each in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from _parts(each)


def light_colors() -> dict[str, str]:
    """CSS variable → colour, of light pages."""
    return dict(re.findall(r"(--[\w-]+): (#\w+);", style().partition("@media")[0]))
