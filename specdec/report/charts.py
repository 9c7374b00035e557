"""The page's figures: what each one is drawn from, and its Vega-Lite specification.

A specification names its data "records" and holds none: the page's script gives it the records of the chosen runs.
Colours are CSS variables, so that dark pages and printed ones need no second drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from specdec.report.choices import along_the_text
from specdec.report.leaderboard import ALL, standings
from specdec.report.marks import (
    REFERENCE,
    Figure,
    base_chart,
    color,
    entry,
    lines,
    near,
    percent,
    shape,
    share_axis,
    spec_of,
)
from specdec.report.methods import Method
from specdec.report.speedups import curves, intervals

PARTS = {"draft": "var(--part-draft)", "verify": "var(--part-verify)", "host": "var(--part-host)"}


def figures(methods: Sequence[Method]) -> list[Figure]:
    """Those that any run has data for."""
    done = [method for method in methods if method.done]
    makers = (
        _by_position, _histogram, along_the_text, _time_split, _predicted, _cost_curve, _distance, _calibration
    )  # fmt: skip
    found = [intervals(done), *curves(done), *(make(done) for make in makers)]
    return [figure for figure in found if figure.records]


def _by_position(methods: Sequence[Method]) -> Figure:
    kinds = {"conditional": "acceptance_by_position", "cumulative": "cumulative_acceptance_by_position"}
    records = [
        {**entry(method), "kind": kind, "position": position, "share": share}
        for method in methods
        for kind, name in kinds.items()
        for position, share in enumerate(method.run.summary[name], start=1)
    ]
    y = share_axis("share", "accepted")
    return Figure(
        "positions",
        "Acceptance by draft position",
        "Conditional: α at this position. That is the share of draft tokens that were accepted, of those whose "
        "predecessors were all accepted. Cumulative: the share of the steps with a draft in which this position and "
        "all positions before it were accepted.",
        {"kind": "Kind", "position": "Position", "share": "Share accepted"},
        records,
        spec_of(lines(methods, alt.X("position:O", title="draft position"), y)),
        choices={kind: kind.capitalize() for kind in kinds},
    )


def _histogram(methods: Sequence[Method]) -> Figure:
    records = [
        {**entry(method), "accepted": accepted, "steps": steps, "share": steps / sum(counts)}
        for method in methods
        if method.run.summary["metrics"]["drafted_tokens"] and sum(counts := method.run.summary["acceptance_histogram"])
        for accepted, steps in enumerate(counts)
    ]
    chart = base_chart().mark_bar().encode(
        x=alt.X("accepted:O", title="draft tokens accepted in a step"),
        xOffset=alt.XOffset("method:N", sort=[method.label for method in methods]),
        y=alt.Y("share:Q", title="share of steps", axis=alt.Axis(format="%", tickCount=5)),
        color=color(methods),
        tooltip=["method:N", "accepted:O", "steps:Q", alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    return Figure(
        "histogram",
        "Accepted draft tokens per step",
        "Share of the verified steps in which exactly 0, 1, 2, … draft tokens were accepted. A step without a draft "
        "counts as 0. The bars of a group are in the order of the legend.",
        {"accepted": "Accepted", "steps": "Steps", "share": "Share"},
        records,
        spec_of(chart),
    )


def _time_split(methods: Sequence[Method]) -> Figure:
    records = [
        {**entry(method), "part": part, "order": order, "share": method.run.summary["metrics"][f"{part}_share"]}
        for method in methods
        for order, part in enumerate(PARTS)
    ]
    y = alt.Y("method:N", axis=None, sort=[method.label for method in methods])
    base = base_chart().encode(y=y)
    x = alt.X("share:Q", stack="zero", title="share of decoding time", scale=alt.Scale(domain=[0, 1]), axis=percent())
    bars = base.mark_bar(height={"band": 0.44}, yOffset=9).encode(
        x=x,
        order="order:Q",
        color=alt.Color("part:N", scale=alt.Scale(domain=[*PARTS], range=[*PARTS.values()]), legend=None),
        tooltip=["method:N", "part:N", alt.Tooltip("share:Q", format=".1%")],
    )
    shares = base.mark_text(dy=9, color="var(--on-part)").encode(
        x=alt.X("share:Q", stack="zero", bandPosition=0.5),
        order="order:Q",
        text=alt.Text("share:Q", format=".0%"),
        opacity=alt.condition("datum.share >= 0.1", alt.value(1), alt.value(0)),
    )
    names = base.transform_filter("datum.order == 0").mark_text(align="left", dy=-11).encode(
        x=alt.value(0), text="method:N"
    )  # fmt: skip
    return Figure(
        "time",
        "Where the time goes",
        "Decoding time has three parts: drafting (draft), passes of the target (verify), and everything else (host). "
        "Time to read the prompts is not counted.",
        {"part": "Part", "share": "Share of decoding time"},
        records,
        spec_of(alt.layer(bars, shares, names), height=alt.Step(46)),
        parts=PARTS,
    )


def _predicted(methods: Sequence[Method]) -> Figure:
    records = []
    for one in standings(methods):
        method, figures = one.method, one.figures
        if one.category == ALL and one.speedup is not None and figures["predicted_speedup"] is not None:
            low, high = one.ends
            values = {"predicted": figures["predicted_speedup"], "measured": one.speedup, "tau": figures["tau"]}
            alone = "yes" if method.evidence else "no: side by side with others"
            records.append({**entry(method), **values, "low": low, "high": high, "alone": alone})
    extent = [record[name] for record in records for name in ("predicted", "measured")] or [1.0]
    diagonal = [{"both": min(extent)}, {"both": max(extent)}]
    x = alt.X("predicted:Q", title="predicted speedup", scale=alt.Scale(zero=False, nice=True, padding=14))
    y = alt.Y("measured:Q", title="measured speedup; level bar: τ", scale=alt.Scale(zero=False))
    base = base_chart().encode(x=x, color=color(methods))
    tooltip = ["method:N", *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("predicted", "measured", "tau"))]
    faded = alt.condition("datum.alone == 'yes'", alt.value(1.0), alt.value(0.45))
    chart = alt.layer(
        alt.Chart(alt.InlineData(values=diagonal)).mark_line(**REFERENCE).encode(x="both:Q", y="both:Q"),
        base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q", opacity=faded),
        near(base, "tau", "measured")
        .mark_tick(orient="horizontal", thickness=2.5, size=18)
        .encode(y="tau:Q", opacity=faded),
        base.mark_point(filled=True, size=80).encode(y=y, shape=shape(methods), opacity=faded, tooltip=tooltip),
    )
    return Figure(
        "predicted",
        "Predicted and measured speedup",
        "Across: predicted speedup, τ · T(B) / (T_draft + T_verify + T_host). Up: measured speedup, with its 95 % "
        "bootstrap interval. Dashed line: both are equal. Level bar: τ, unless it is far off. No true speedup is "
        "above τ, so runs that measured more are left out. Pale: measured while other jobs ran, so the time is not "
        "reliable.",
        {"predicted": "Predicted", "measured": "Measured", "low": "From", "high": "To", "tau": "τ", "alone": "Alone"},
        records,
        spec_of(chart),
    )


def _cost_curve(methods: Sequence[Method]) -> Figure:
    records = [
        {**entry(method), "rows": rows, "seconds": seconds, "cost": seconds / curve["seconds"][0]}
        for method in methods
        if (curve := method.run.summary["cost_curve"])
        for rows, seconds in zip(curve["rows"], curve["seconds"], strict=True)
    ]
    x = alt.X("rows:Q", title="rows in a pass", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=6))
    y = alt.Y("cost:Q", title="T(rows) / T(1)", scale=alt.Scale(zero=True))
    level = alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(**REFERENCE).encode(y="one:Q")
    return Figure(
        "cost",
        "Cost of a pass by its rows",
        "Time of a target pass, divided by the time of a pass with one row. A draft token adds one row to the pass. "
        "Dashed line: more rows cost nothing.",
        {"rows": "Rows", "seconds": "Seconds", "cost": "T(rows) / T(1)"},
        records,
        spec_of(alt.layer(level, lines(methods, x, y))),
    )


def _distance(methods: Sequence[Method]) -> Figure:
    records = [
        {**entry(method), "position": position, "distance": distance}
        for method in methods
        for position, distance in enumerate(method.run.summary["tv_by_position"], start=1)
    ]
    y = alt.Y("distance:Q", title="mean TV(p, q)", scale=alt.Scale(domain=[0, 1]))
    return Figure(
        "distance",
        "Distance of draft and target by position",
        "Mean total variation distance (TV) between the target's distribution p and the drafter's distribution q at "
        "each draft position. 0: they are equal. 1: they share no token. No lossless rule accepts a single draft token "
        "with a probability above 1 − TV.",
        {"position": "Position", "distance": "TV(p, q)"},
        records,
        spec_of(lines(methods, alt.X("position:O", title="draft position"), y)),
    )


def _calibration(methods: Sequence[Method]) -> Figure:
    records = [{**entry(method), **bucket} for method in methods for bucket in method.run.summary["calibration"]]
    ends = alt.InlineData(values=[{"both": 0}, {"both": 1}])
    diagonal = alt.Chart(ends).mark_line(**REFERENCE).encode(x="both:Q", y="both:Q")
    x = alt.X("confidence:Q", title="q of the draft token", scale=alt.Scale(domain=[0, 1]), axis=percent())
    return Figure(
        "calibration",
        "Calibration of the drafter",
        "Draft tokens, grouped by the probability q that the drafter gave them. Across: mean q. Up: accepted share. "
        "Dashed line: both are equal. Below it the drafter is overconfident.",
        {"confidence": "Mean q", "accepted": "Share accepted", "count": "Draft tokens"},
        records,
        spec_of(alt.layer(diagonal, lines(methods, x, share_axis("accepted", "accepted")))),
    )
