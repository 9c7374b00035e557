"""Runs as the page names, numbers and draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.measure.runs import Run

DRAFTER, RULE = "drafter", "rule"
"""Axes that a method's name begins with: the drafter always, the rule where it differs within the study."""

CONDITIONS = (
    "target", "dtype", "kv_dtype", "data", "temperature", "top_k", "top_p", "min_p", "max_tokens", "batch",
)  # fmt: skip
"""Axes under which methods are compared; the others tell methods apart."""

SEED = "seed"

NOT_GIVEN = "does not apply"
"""Value of an axis that a run lacks, such as an option of another drafter."""

SHORT = {"num_draft_tokens": "γ"}

COLORS = tuple(f"var(--series-{number})" for number in range(1, 9))
"""Set in the style of all pages, once for light pages and once for dark ones."""

SHAPES = (
    "M-1,0A1,1,0,1,0,1,0A1,1,0,1,0,-1,0Z",  # circle
    "M-0.9,-0.9H0.9V0.9H-0.9Z",  # square
    "M0,-1.1L1.1,0.9H-1.1Z",  # triangle
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",  # diamond
    "M-1.1,-0.4H-0.4V-1.1H0.4V-0.4H1.1V0.4H0.4V1.1H-0.4V0.4H-1.1Z",  # cross
)
"""Paths in a square from -1 to 1. Five shapes and eight colours repeat together only after forty methods."""

STATES = {
    "done": "It is done.",
    "unfinished": "It was stopped. Run the same command again to continue it.",
    "running": "It is running now.",
    "planned": "It has not begun.",
}
"""What is said of a run without an error."""

DASHES = ((1, 0), (6, 3), (2, 2))


@dataclass(frozen=True)
class Look:
    """How one line, and all that belongs to it, is drawn.

    Args:
        key: its number.
        label: its name for readers.
    """

    key: int
    label: str

    @property
    def color(self) -> str:
        """A CSS colour."""
        return COLORS[self.key % len(COLORS)]

    @property
    def shape(self) -> str:
        """An SVG path, see `SHAPES`."""
        return SHAPES[self.key % len(SHAPES)]

    @property
    def dash(self) -> tuple[int, int]:
        """Lengths of line and gap, in pixels."""
        return DASHES[self.key % len(DASHES)]


@dataclass(frozen=True)
class Method(Look):
    """A run on the page.

    Args:
        key: its number, by which rows, marks and filters find each other.
        label: its name for readers; no other run of the study has it.
        axes: the axes that differ within the study, with their values as text.
        run: what it shows.
    """

    axes: dict[str, str]
    run: Run

    @property
    def done(self) -> bool:
        """Whether it has figures."""
        return self.run.status == "done"

    @property
    def coming(self) -> bool:
        """Whether it may still get figures without another command."""
        return self.run.status in ("running", "planned")

    @property
    def reason(self) -> str:
        """Why it has no figures, in a sentence."""
        return STATES[self.run.status] if self.run.error is None else self.run.error.strip().splitlines()[-1]

    @property
    def evidence(self) -> bool:
        """Whether its times were taken with the machine to itself."""
        return not self.run.environment.get("side_by_side", False)


def condition(method: Method, but: str = "") -> str:
    """Under which a method was measured, in words; "" if all runs share it.

    Args:
        method: any.
        but: an axis that is left out.
    """
    axes = [axis for axis in CONDITIONS if axis in method.axes and axis != but]
    return ", ".join(f"{axis_name(axis)} {method.axes[axis]}" for axis in axes)


def name_without(method: Method, *axes: str) -> str:
    """A method's label without its values on some axes."""
    left_out = [f"{axis_name(axis)} {method.axes[axis]}" for axis in axes if axis in method.axes]
    return " · ".join(part for part in method.label.split(" · ") if part not in left_out)


def as_text(value: Any) -> str:
    """An axis' value for readers.

    >>> as_text(None), as_text(True), as_text(0.5)
    ('none', 'yes', '0.5')
    """
    return "none" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)


def axis_name(axis: str) -> str:
    """An axis for readers."""
    return SHORT.get(axis, axis.replace("_", " "))


def common_axes(runs: Sequence[Run]) -> dict[str, str]:
    """Axes that all runs have and share, with their values; those that name a method or a condition come first."""
    first, *others = [run.axes for run in runs]
    shared = [axis for axis in first if all(axis in one and one[axis] == first[axis] for one in others)]
    chief = (DRAFTER, RULE, *CONDITIONS)
    shared.sort(key=lambda axis: chief.index(axis) if axis in chief else len(chief))
    return {axis: as_text(first[axis]) for axis in shared}


def varying_axes(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Axes in which the runs that have them differ, with their values: numbers by size, then everything else by name,
    then `NOT_GIVEN` if some runs lack the axis."""
    axes = dict.fromkeys(axis for run in runs for axis in run.axes)
    values_of = {axis: {run.axes[axis] for run in runs if axis in run.axes} for axis in axes}
    lacking = {axis: [NOT_GIVEN] if any(axis not in run.axes for run in runs) else [] for axis in axes}
    return {
        axis: [*map(as_text, sorted(values, key=numbers_first)), *lacking[axis]]
        for axis, values in values_of.items()
        if len(values) > 1
    }


def methods(runs: Sequence[Run]) -> list[Method]:
    """Names and numbers runs, in their order; those with figures first, so that they have the clearest colours."""
    varying = varying_axes(runs)
    ordered = sorted(runs, key=lambda run: run.status != "done")
    telling = telling_axes(runs)
    labels = [_label(run, telling) for run in ordered]
    shared = Counter(labels)
    return [
        Method(
            key,
            label if shared[label] == 1 else f"{label} · {run.name}",
            {axis: as_text(run.axes[axis]) if axis in run.axes else NOT_GIVEN for axis in varying},
            run,
        )
        for key, (run, label) in enumerate(zip(ordered, labels, strict=True))
    ]


def _label(run: Run, telling: Iterable[str]) -> str:
    named = [as_text(run.axes[axis]) for axis in (DRAFTER, RULE) if axis in run.axes and axis in (DRAFTER, *telling)]
    others = [axis for axis in telling if axis in run.axes and axis not in (DRAFTER, RULE)]
    return " · ".join([*named, *(f"{axis_name(axis)} {as_text(run.axes[axis])}" for axis in others)]) or run.name


def telling_axes(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Those of `varying_axes` whose value the drafter's name does not say already."""
    return {axis: values for axis, values in varying_axes(runs).items() if not _follows(axis, runs)}


def _follows(axis: str, runs: Sequence[Run]) -> bool:
    """Whether the drafter's name says the value, as it does where every drafter has its own default."""
    pairs = {(run.axes.get(DRAFTER), run.axes.get(axis, NOT_GIVEN)) for run in runs}
    return axis not in (DRAFTER, RULE, *CONDITIONS) and len(pairs) == len({drafter for drafter, _ in pairs})


def numbers_first(value: Any) -> tuple[bool, float, str]:
    """A key by which values of an axis are sorted."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, as_text(value)
