"""Who drafted when: for runs in which a policy chose among several drafters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from specdec.report.leaderboard import ALL
from specdec.report.marks import Figure, base_chart, entry, percent, spec_of
from specdec.report.methods import COLORS, Method
from specdec.stats import NOBODY


@dataclass(frozen=True)
class Chosen:
    """What drafted for a method on one category of prompts.

    Args:
        method: whose policy chose.
        category: of the prompts; `ALL` for all.
        of: drafter → its record of `summary["by_drafter"]`.
    """

    method: Method
    category: str
    of: dict[str, dict[str, Any]]

    def cell(self, drafter: str) -> str:
        """Share of the steps, and τ of those; "–" where it drafted nothing.

        Args:
            drafter: a name.
        """
        told = self.of.get(drafter)
        return f"{told['share']:.0%}, τ {told['tau']:.2f}" if told and told["steps"] else "–"


def choosing(methods: Iterable[Method]) -> list[Method]:
    """Those with two drafters or more to choose from."""
    return [one for one in methods if one.done and len(_names(one) - {NOBODY}) > 1]


def drafters(methods: Iterable[Method]) -> list[str]:
    """Names of all that a policy chose from, the most used first, then `NOBODY`."""
    steps: Counter[str] = Counter()
    for method in choosing(methods):
        steps.update({one["drafter"]: one["steps"] for one in _told(method, None)})
    return [*sorted(steps.keys() - {NOBODY}, key=lambda name: (-steps[name], name)), NOBODY]


def chosen(methods: Iterable[Method]) -> list[Chosen]:
    """Method by method: all prompts, then each category."""
    rows = []
    for method in choosing(methods):
        categories = dict.fromkeys(one["category"] for one in method.run.summary["by_drafter"])
        for category in categories:
            of = {one["drafter"]: one for one in _told(method, category)}
            rows.append(Chosen(method, ALL if category is None else category, of))
    return rows


def along_the_text(methods: Sequence[Method]) -> Figure:
    """Share of the steps by drafter, along the texts."""
    names, several = drafters(methods), choosing(methods)
    records = [
        {**entry(method), "kind": ALL if one["category"] is None else one["category"], "part": one["part"],
         "tokens": f"{one['begin']}–{one['end'] - 1}", "drafter": one["drafter"], "order": names.index(one["drafter"]),
         "steps": one["steps"], "share": one["share"]}
        for method in several
        for one in method.run.summary["along_the_text"]
    ]  # fmt: skip
    colors = {name: COLORS[-1] if name == NOBODY else COLORS[i % (len(COLORS) - 1)] for i, name in enumerate(names)}
    chart = base_chart().mark_bar().encode(
        x=alt.X("tokens:O", title="tokens of the text", sort=alt.EncodingSortField("part")),
        xOffset=alt.XOffset("method:N", sort=[method.label for method in several]),
        y=alt.Y("share:Q", stack="zero", title="share of steps", scale=alt.Scale(domain=[0, 1]), axis=percent()),
        color=alt.Color("drafter:N", scale=alt.Scale(domain=[*colors], range=[*colors.values()]), legend=None),
        order="order:Q",
        tooltip=["method:N", "tokens:O", "drafter:N", "steps:Q", alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    return Figure(
        "choices",
        "Who drafted when",
        "Share of the steps in which each drafter's draft was verified, by where in the text the step begins. "
        f"{NOBODY}: nothing was drafted. Each bar of a group is one method, in the order of the table below.",
        {"kind": "Prompts", "tokens": "Tokens", "drafter": "Drafter", "steps": "Steps", "share": "Share"},
        records,
        spec_of(chart),
        choices={kind: kind for kind in dict.fromkeys(record["kind"] for record in records)},
        parts=colors,
    )


def _names(method: Method) -> set[str]:
    return {one["drafter"] for one in method.run.summary["by_drafter"]}


def _told(method: Method, category: str | None) -> list[dict[str, Any]]:
    return [one for one in method.run.summary["by_drafter"] if one["category"] == category]
