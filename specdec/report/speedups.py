"""What a study is made for: speedups with their intervals, and curves over the numbers that it sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from specdec.report.leaderboard import ALL, Standing, standings
from specdec.report.marks import REFERENCE, Figure, Record, base_chart, color, faceted, lines, near, shape, spec_of
from specdec.report.methods import CONDITIONS, SEED, Look, Method, axis_name, condition, name_without, numbers_first

MEASURES = {"speedup": "Speedup", "tau": "τ", "alpha": "α"}
"""What a curve can show."""
OF_SEEDS = " It joins the means over seeds; upright bars show ± their standard deviation."
MAX_TICKS = 8
"""Numbers of an axis that are all named."""


def intervals(methods: Sequence[Method]) -> Figure:
    """Speedups that can be true, the largest first; runs that differ in their seed alone share a line."""
    found = [one for one in standings(methods) if one.category == ALL and one.speedup is not None]
    keys: dict[str, int] = {}
    for one in found:
        keys.setdefault(name_without(one.method, SEED), one.method.key)
    looks = [Look(key, name) for name, key in keys.items()]
    records = [_interval(one) for one in found]
    base = base_chart().encode(y=alt.Y("method:N", axis=None, sort=[*keys]))
    axis, scale = (
        alt.Axis(orient="top", tickCount=8, offset=4, labelBaseline="bottom"),
        alt.Scale(zero=False, nice=True),
    )
    title = "speedup over plain decoding; upright bar: τ"
    low, at = (alt.X(f"{name}:Q", title=title, scale=scale, axis=axis) for name in ("low", "speedup"))
    faded = alt.condition("datum.alone == 'yes'", alt.value(1.0), alt.value(0.45))
    plain = alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(**REFERENCE).encode(x="one:Q")
    tooltip = ["method:N", *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("speedup", "low", "high", "tau"))]
    colors, shapes = color(looks), shape(looks)
    names = base.mark_text(align="left", dx=3, dy=-9, limit=alt.ExprRef("width"))
    chart = alt.layer(
        plain,
        base.mark_rule(strokeWidth=2, yOffset=5).encode(x=low, x2="high:Q", color=colors, opacity=faded),
        near(base, "tau", "speedup")
        .mark_tick(thickness=2.5, size=12, yOffset=5)
        .encode(x="tau:Q", color=colors, opacity=faded),
        base.mark_point(filled=True, size=70, yOffset=5).encode(
            x=at, color=colors, shape=shapes, opacity=faded, tooltip=tooltip
        ),
        names.encode(x=alt.value(0), text="min(method):N"),
    )
    return Figure(
        "speedup",
        "Speedup over plain decoding",
        "Point: measured speedup. Line: its 95 % interval (bootstrap over prompts). Each seed has its own point. "
        "Dashed line: plain decoding, 1.00. Upright bar: τ, unless it is far off. No true speedup is above τ, so runs "
        "that measured more are left out. Pale: measured while other jobs ran, so the time is not reliable.",
        {"speedup": "Speedup", "low": "From", "high": "To", "tau": "τ", "alone": "Alone"},
        records,
        spec_of(chart, height=alt.Step(34)),
        titled=True,
    )


def _interval(one: Standing) -> Record:
    low, high = one.ends
    return {
        "run": one.method.key, "method": name_without(one.method, SEED), "speedup": one.speedup, "low": low,
        "high": high, "tau": one.figures["tau"],
        "alone": "yes" if one.method.evidence else "no: side by side with others",
    }  # fmt: skip


def curves(methods: Sequence[Method]) -> list[Figure]:
    """A figure for each axis with two numbers or more: a line for every method, the mean over its seeds, and a part
    for every condition."""
    found = [one for one in standings(methods) if one.category == ALL]
    axes = dict.fromkeys(axis for one in found for axis in one.method.axes if axis != SEED)
    return [figure for axis in axes if (figure := _curve(axis, found)).records]


def _curve(axis: str, found: Sequence[Standing]) -> Figure:
    """Without records unless a method has two numbers on the axis."""
    swept: dict[tuple[str, str], list[Standing]] = {}
    for one in found:
        if _number(one, axis) is not None:
            name = name_without(one.method, SEED, axis, *CONDITIONS)
            swept.setdefault((name, condition(one.method, but=axis)), []).append(one)
    kept = {place: group for place, group in swept.items() if len({_number(one, axis) for one in group}) > 1}
    looks = {name: Look(key, name) for key, name in enumerate(dict.fromkeys(name for name, _ in kept))}
    series = [*looks.values()]
    parts = [*dict.fromkeys(part for _, part in sorted(kept, key=lambda place: _order(kept[place])))]
    columns = {"part": "Condition"} if len(parts) > 1 else {}
    seeds = any(SEED in one.method.axes for one in found)
    records = [
        {"run": one.method.key, "method": name, "series": looks[name].key, "part": part, "kind": kind,
         "at": _number(one, axis), "value": value}
        for (name, part), group in kept.items()
        for one in group
        for kind in MEASURES
        if (value := one.speedup if kind == "speedup" else one.figures[kind]) is not None
    ]  # fmt: skip
    numbers = sorted({at for group in kept.values() for one in group if (at := _number(one, axis)) is not None})
    ticks = alt.Axis(values=numbers) if len(numbers) <= MAX_TICKS else alt.Axis()
    x = alt.X("at:Q", title=axis_name(axis), scale=alt.Scale(zero=False, padding=14), axis=ticks)
    y = alt.Y("mean(value):Q", title="", scale=alt.Scale(zero=False))
    bars = base_chart().mark_errorbar(extent="stdev").encode(x=x, y=alt.Y("value:Q", title=""), color=color(series))
    drawn = lines(series, x, y, *([bars] if seeds else []))
    return Figure(
        f"over-{axis.replace('.', '-').replace('_', '-')}",
        f"Over {axis_name(axis)}",
        f"Speedup, τ or α for each value of {axis_name(axis)}. Each method has one line.{OF_SEEDS if seeds else ''} "
        "Speedups above τ are left out.",
        {"kind": "Figure"} | columns | {"at": axis_name(axis), "value": "Value"},
        records,
        faceted(spec_of(drawn), parts),
        choices={kind: title for kind, title in MEASURES.items() if any(record["kind"] == kind for record in records)},
        series=series,
    )


def _order(group: Sequence[Standing]) -> list[Any]:
    """Of conditions: by their values."""
    method = group[0].method
    return [numbers_first(method.run.axes.get(axis)) for axis in CONDITIONS if axis in method.axes]


def _number(one: Standing, axis: str) -> float | None:
    """The value of a run on an axis, if it is a number and differs within the study."""
    value = one.method.run.axes.get(axis) if axis in one.method.axes else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
