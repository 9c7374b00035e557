"""The acceptance dashboard of a wandb project, written down: a workspace, and a report over the same panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from specdec.errors import ConfigError
from specdec.tracking.wandb import LEADERBOARD, SCREEN


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: over it.
        kind: "bars" over runs of summary figures, "lines" over steps, "points" of two figures, a "table", or a
            "document".
        metrics: what it shows, by the names that `WandbTracker` logs; for points x, then y.
    """

    title: str
    kind: Literal["bars", "lines", "points", "table", "document"]
    metrics: tuple[str, ...]


SECTIONS: Mapping[str, Sequence[Panel]] = {
    "What was found": (
        Panel("Who leads and why: speedups, 1.00 and τ, leaderboard, time", "document", (SCREEN,)),
        Panel("Leaderboard", "table", (LEADERBOARD,)),
    ),
    "Speed": (
        Panel("Speedup over plain decoding", "bars", ("speedup",)),
        Panel("Tokens per target pass (τ), the speedup's limit", "bars", ("tau",)),
        Panel("Tokens per second, with and without drafts", "bars", ("tokens_per_second", "plain_tokens_per_second")),
        Panel("Predicted and measured", "points", ("predicted_speedup", "speedup")),
        Panel("By category", "table", ("tables/categories",)),
    ),
    "Acceptance": (
        Panel("Acceptance rate (α)", "bars", ("alpha",)),
        Panel("τ so far", "lines", ("step/running_tau",)),
        Panel("α so far", "lines", ("step/running_alpha",)),
        Panel("Accepted draft tokens of each step", "lines", ("step/accepted",)),
        Panel("By draft position: α, cumulative, TV(p, q)", "table", ("tables/acceptance",)),
        Panel("The drafter's calibration", "table", ("tables/calibration",)),
        Panel("Wasted share of the drafts", "bars", ("wasted_share",)),
    ),
    "Drafters": (
        Panel("Who drafted, by category", "table", ("tables/drafters",)),
        Panel("Rates of acceptance that the policy has learnt", "table", ("tables/survival",)),
        Panel("Drafting of a step over a plain step", "bars", ("drafting_cost",)),
        Panel("Memory of the drafters, MiB", "bars", ("drafter_memory_mb",)),
    ),
    "Time": (
        Panel("Shares of a step", "bars", ("draft_share", "verify_share", "host_share")),
        Panel("Cost ratio c: a draft token over a pass", "bars", ("cost_ratio",)),
    ),
    "Serving": (
        Panel("Time to the first token, ms", "bars", ("ttft_ms",)),
        Panel("Between tokens, ms: 50, 95, 99 %", "bars", ("itl_p50_ms", "itl_p95_ms", "itl_p99_ms")),
        Panel("KV cache: occupied, and wasted of it", "bars", ("kv_occupancy", "kv_waste")),
        Panel("Peak memory, MiB", "bars", ("peak_memory_mb",)),
        Panel("Prompts", "table", ("tables/prompts",)),
    ),
}
WIDE, TALL = 24, 20
"""Of a panel with a document: the whole width of a report, and a screen's height, in its units."""
NOTE = (
    "τ: output tokens per target pass. α: accepted over tested draft positions. The speedup compares the same engine "
    "with and without its drafter, prompt by prompt in turns; above τ it would be a measuring error (docs/metrics.md)."
)


def workspace(entity: str, project: str) -> Any:
    """The dashboard; `.save()` sends it.

    Raises:
        ConfigError: if wandb-workspaces is not installed.
    """
    reports, workspaces = _modules()
    sections = [
        workspaces.Section(name=name, panels=[_made(panel, reports) for panel in panels], is_open=True)
        for name, panels in SECTIONS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name="Acceptance", sections=sections)


def report(entity: str, project: str) -> Any:
    """The same as a document; `.save()` sends it.

    Raises:
        ConfigError: if wandb-workspaces is not installed.
    """
    reports, _ = _modules()
    blocks: list[Any] = [reports.P(NOTE)]
    for name, panels in SECTIONS.items():
        grid = reports.PanelGrid(
            runsets=[reports.Runset(entity=entity, project=project)], panels=[_made(panel, reports) for panel in panels]
        )
        blocks += [reports.H2(name), grid]
    return reports.Report(project=project, entity=entity, title="Acceptance", description=NOTE, blocks=blocks)


def _made(panel: Panel, reports: Any) -> Any:
    if panel.kind == "table":
        return reports.WeavePanelSummaryTable(table_name=panel.metrics[0])
    if panel.kind == "document":
        size = reports.Layout(w=WIDE, h=TALL)
        return reports.MediaBrowser(title=panel.title, media_keys=list(panel.metrics), num_columns=1, layout=size)
    if panel.kind == "lines":
        return reports.LinePlot(title=panel.title, x="step/number", y=list(panel.metrics))
    if panel.kind == "points":
        x, y = map(reports.SummaryMetric, panel.metrics)
        return reports.ScatterPlot(title=panel.title, x=x, y=y)
    return reports.BarPlot(title=panel.title, metrics=list(panel.metrics))


def _modules() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ConfigError("wandb-workspaces is not installed. Run `pip install 'specdec-lab[workspaces]'`.") from error
    return reports, workspaces
