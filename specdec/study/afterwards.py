"""The settings of the commands that read what a study has written."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from specdec.typed import TypedPath


@dataclass
class ReportConfig:
    """`specdec report`."""

    study: TypedPath = MISSING
    after: TypedPath | None = None
    output: TypedPath | None = None
    screenshots: TypedPath | None = None


@dataclass
class PlotConfig:
    """`specdec plot`."""

    study: TypedPath = MISSING
    figure: str = "speedup"
    kind: str | None = None
    output: TypedPath | None = None
    width: int = 480


@dataclass
class TableConfig:
    """`specdec table`."""

    study: TypedPath = MISSING
    format: str = "markdown"
    output: TypedPath | None = None


@dataclass
class AnswersConfig:
    """`specdec answers`."""

    study: TypedPath = MISSING
    output: TypedPath | None = None


@dataclass
class ReplayConfig:
    """`specdec replay`."""

    trace: TypedPath = MISSING
    rules: list[str] = field(default_factory=list)
    gammas: list[int | None] = field(default_factory=list)
    seeds: int = 20
    json: TypedPath | None = None
