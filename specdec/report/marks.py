"""What all figures are drawn with: one look for a method in every chart, on light pages, dark ones and paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from specdec.report.methods import Look, Method

HEIGHT, FACET_HEIGHT = 260, 180
FACETS = 3
"""Charts side by side at most."""
FAR = 1.5
"""Times the largest value: what is beyond it is not drawn."""
REFERENCE: dict[str, Any] = {"color": "var(--muted)", "strokeDash": [4, 4], "strokeWidth": 1}

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "titleFontWeight": "normal", "labelFontSize": 12,
        "titleFontSize": 12, "gridColor": "var(--line)", "domainColor": "var(--line)", "tickColor": "var(--line)",
        "titlePadding": 8, "labelAngle": 0,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
}  # fmt: skip
"""Of all charts."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One chart with what a reader needs to understand it.

    Args:
        key: its name in the page.
        title: its heading.
        caption: the definition of what it shows.
        columns: fields of its records that its table shows, with their headings.
        records: what is drawn; `run` is a method's key, `method` its label.
        spec: Vega-Lite.
        choices: values of the field `kind` with their labels, if one kind is shown at a time.
        parts: names and their colours, where the legend is not one of methods.
        series: what its lines stand for, where that is not a run each; `series` of a record is the key of one.
        titled: whether the names stand in the chart, so that it needs no legend.
    """

    key: str
    title: str
    caption: str
    columns: dict[str, str]
    records: list[Record]
    spec: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    series: Sequence[Look] = ()
    titled: bool = False

    @property
    def limited(self) -> bool:
        """Whether each run has lines or bars of its own that others cover, so that only a few can be drawn."""
        return not (self.titled or self.series or self.parts)

    @property
    def legend(self) -> list[tuple[Look, list[int]]]:
        """Its series, each with the keys of its runs."""
        return [
            (one, sorted({record["run"] for record in self.records if record["series"] == one.key}))
            for one in self.series
        ]


def entry(method: Method) -> Record:
    """What every record says of its run."""
    return {"run": method.key, "method": method.label}


def base_chart() -> alt.Chart:
    """Of the records that the page gives to it."""
    return alt.Chart(alt.NamedData(name="records"))


def lines(methods: Sequence[Look], x: alt.X, y: alt.Y, *below: alt.Chart) -> alt.LayerChart | alt.FacetChart:
    """A line and marks for every method, or for whatever else the records' field `method` names; other marks below."""
    value = alt.Tooltip(y.shorthand, format=".3f")
    base = base_chart().encode(x=x, y=y, color=color(methods), tooltip=["method:N", x.shorthand, value])
    dash = alt.StrokeDash("method:N", scale=_scale(methods, [list(m.dash) for m in methods]), legend=None)
    return alt.layer(
        *below,
        base.mark_line(strokeWidth=2).encode(strokeDash=dash),
        base.mark_point(filled=True, size=60, opacity=1).encode(shape=shape(methods)),
    )


def near(base: alt.Chart, name: str, of: str) -> alt.Chart:
    """The records whose field `name` is not far above the largest of the field `of`, so that those keep the room."""
    largest = base.transform_joinaggregate(largest=f"max({of})")
    kept: alt.Chart = largest.transform_filter(f"datum.{name} <= {FAR} * datum.largest")
    return kept


def share_axis(name: str, title: str) -> alt.Y:
    """Up, from 0 to 1."""
    return alt.Y(f"{name}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=percent())


def percent() -> alt.Axis:
    """Labels."""
    return alt.Axis(format="%", tickCount=5)


def color(methods: Sequence[Look]) -> alt.Color:
    """Of a method's marks; the legend is the page's."""
    return alt.Color("method:N", scale=_scale(methods, [m.color for m in methods]), legend=None)


def shape(methods: Sequence[Look]) -> alt.Shape:
    """Of a method's points."""
    return alt.Shape("method:N", scale=_scale(methods, [m.shape for m in methods]), legend=None)


def _scale(methods: Sequence[Look], values: list[Any]) -> alt.Scale:
    """The same look for a method whichever others are shown."""
    return alt.Scale(domain=[method.label for method in methods], range=values)


def spec_of(chart: Any, height: Any = HEIGHT) -> dict[str, Any]:
    """Without the configuration, which the page keeps once. Its channels were validated as they were made."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict(validate=False)
    return {name: value for name, value in spec.items() if name not in ("config", "$schema")}


def faceted(spec: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """A chart for each value of the records' field `part`, side by side with the same axes.

    Args:
        spec: of one of them, all of whose layers are drawn from the records.
        parts: the values, in their order; with a single one the chart stays alone.
    """
    if len(parts) < 2:
        return spec
    header = {"labelColor": "var(--ink)", "labelFontSize": 12, "title": None}
    layers = [{name: value for name, value in layer.items() if name != "data"} for layer in spec["layer"]]
    one = {"layer": layers, "width": spec["width"], "height": FACET_HEIGHT}
    facet = {"field": "part", "type": "nominal", "sort": [*parts], "header": header}
    return {"data": {"name": "records"}, "facet": facet, "columns": min(len(parts), FACETS), "spec": one}
