"""Weights & Biases, online or offline."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from specdec.errors import ConfigError
from specdec.tracking.base import Row, Screen, Tracker, figures
from specdec.typed import TypedName

INIT_SECONDS, FINISH_SECONDS = 15.0, 120.0
"""Longest waits for a server that does not answer; what it has not got by then is on the disk, for `wandb sync`."""
SCREEN, LEADERBOARD = "study/first_screen", "study/leaderboard"
"""Of a study's run."""
PROMPT_SCALARS = ("index", "prompt_tokens", "output_tokens", "tau", "alpha", "tokens_per_second",
                  "plain_tokens_per_second", "speedup", "ttft_ms", "kv_occupancy", "kv_waste")  # fmt: skip
PROMPT_TEXTS = ("question_id", "category", "prompt", "text", "finish_reason", "identical")


class WandbTracker(Tracker):
    """One wandb run a job, grouped by study: `step/…` for every verified step, `prompt/…` for every prompt, figures in
    the summary, tables and charts, and the run folder as an artifact; and one run a study, with its first screen.

    Args:
        mode: "online", or "offline": files below the run folder, for `wandb sync` (no account, no network).
        project, entity, tags: as wandb has them.

    Raises:
        ConfigError: if the package is not installed.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"] = "offline",
        project: TypedName = "specdec",
        entity: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if importlib.util.find_spec("wandb") is None:  # importing it takes seconds
            raise ConfigError("wandb is not installed. Run `pip install 'specdec-lab[wandb]'`.")
        self._mode, self._project, self._entity, self._tags = mode, project, entity, tuple(tags)
        self._run: Any = None
        self._counts = {"step": 0, "emitted": 0, "tested": 0, "accepted": 0}

    def start(self, name: str, study: str, config: Row, environment: Row, folder: Path) -> None:
        """Opens the run.

        Raises:
            ConfigError: see `_open`.
        """
        self._open(name, study, "benchmark", {"config": dict(config), "environment": dict(environment)}, folder)
        for kind in ("step", "prompt"):
            self._run.define_metric(f"{kind}/number", hidden=True)
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/number")
        self._run.define_metric("train/*", step_metric="train/step")

    def _open(self, name: str, study: str, kind: str, config: dict[str, Any], folder: Path) -> None:
        """Begins a run of a kind.

        Raises:
            ConfigError: online, without credentials: wandb would ask for them on the terminal.
        """
        import wandb

        if self._mode == "online" and not has_credentials():
            raise ConfigError("wandb has no API key here. Run `wandb login`, or use tracking=wandb_offline.")
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_disable_stats=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,  # being silent, it would give up without a word
        )
        self._run = wandb.init(
            mode=self._mode,
            project=self._project,
            entity=self._entity,
            name=name,
            group=study,
            job_type=kind,
            tags=list(self._tags),
            config=config,
            dir=folder,
            settings=settings,
            reinit="create_new",
        )

    def step(self, values: Mapping[str, float]) -> None:
        """Its values, and τ and α of the job so far."""
        counts = self._counts
        counts["step"] += 1
        counts["emitted"] += int(values["emitted"])
        counts["tested"] += int(values["tested"])
        counts["accepted"] += int(values["accepted"])
        record = {f"step/{key}": value for key, value in values.items()}
        record["step/number"] = counts["step"]
        record["step/running_tau"] = counts["emitted"] / counts["step"]
        record["step/running_alpha"] = counts["accepted"] / counts["tested"] if counts["tested"] else 0.0
        self._run.log(record)

    def prompt(self, row: Row) -> None:
        """Its numbers; its texts come in a table at the end."""
        record = {f"prompt/{key}": row[key] for key in PROMPT_SCALARS if row[key] is not None}
        self._run.log(record | {"prompt/number": row["index"]})

    def point(self, values: Mapping[str, float]) -> None:
        """Its values."""
        self._run.log({f"train/{key}": value for key, value in values.items()})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()

    def finish(self, summary: Row, rows: Sequence[Row], steps: Sequence[Row], folder: Path) -> None:
        """Figures, tables, charts and the folder."""
        import wandb

        self._run.summary.update(figures(summary["metrics"]))
        self._run.log(_tables(summary, rows) | _charts(summary))
        artifact = wandb.Artifact(f"run-{folder.name}", type="run-folder")
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)
        self._run.finish()

    def fail(self, error: str) -> None:
        """Marks the run as failed."""
        self._run.summary["error"] = error
        self._run.finish(exit_code=1)

    def study(self, name: str, screen: Screen, folder: Path) -> None:
        """A run of its own: the document, and the leaderboard as a table.

        Raises:
            ConfigError: see `_open`.
        """
        import wandb

        self._open(name, name, "study", {}, folder)
        leaderboard = wandb.Table(columns=[*screen.columns], data=[[*row] for row in screen.rows])
        self._run.log({SCREEN: wandb.Html(screen.html, inject=False), LEADERBOARD: leaderboard})
        self._run.finish()


def has_credentials() -> bool:
    """Whether wandb finds a key where it looks for one (environment, netrc, its settings); asks nobody, not even the
    server.

    Raises:
        ConfigError: if what it finds cannot be a key.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # else it fetches the user's name, to greet them
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(f"wandb: {error} Run `wandb login --relogin`.") from error


def _tables(summary: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """Name → table: prompts, categories, drafters, rates of acceptance by position and kind, distances, calibration."""
    import wandb

    columns: list[str | int] = [*PROMPT_TEXTS, *PROMPT_SCALARS]
    categories = summary["by_category"]
    names = sorted(next(iter(categories.values())))
    tables = {
        "tables/prompts": wandb.Table(columns=columns, data=[[row[str(name)] for name in columns] for row in rows]),
        "tables/categories": wandb.Table(
            columns=["category", *names],
            data=[[name, *map(figures(scalars).get, names)] for name, scalars in categories.items()],
        ),
        "tables/acceptance": _acceptance_table(summary),
    }
    for name, key in (("drafters", "by_drafter"), ("survival", "survival"), ("calibration", "calibration")):
        if summary[key]:
            keys: list[str | int] = [*summary[key][0]]
            data = [[one[field] for field in keys] for one in summary[key]]
            tables[f"tables/{name}"] = wandb.Table(columns=keys, data=data)
    return tables


def _acceptance_table(summary: Row) -> Any:
    import wandb

    names = ("acceptance_by_position", "cumulative_acceptance_by_position", "tv_by_position")
    rows = zip_longest(*(summary[name] for name in names))  # positions may be drafted and never come to their test
    data = [[position, *values] for position, values in enumerate(rows, 1)]
    return wandb.Table(columns=["position", "alpha", "cumulative", "tv"], data=data)


def _charts(summary: Row) -> dict[str, Any]:
    """Name → chart, each over a small table of its own."""
    import wandb

    metrics = figures(summary["metrics"])

    def bars(title: str, label: str, value: str, data: list[list[Any]]) -> Any:
        return wandb.plot.bar(wandb.Table(columns=[label, value], data=data), label, value, title)

    alpha = [[str(i), value] for i, value in enumerate(summary["acceptance_by_position"], 1)]
    counts = [[str(i), count] for i, count in enumerate(summary["acceptance_histogram"])]
    shares = [[part, metrics[f"{part}_share"]] for part in ("draft", "verify", "host")]
    drafters = [[one["drafter"], one["share"]] for one in summary["by_drafter"] if one["category"] is None]
    ratios = [[key, metrics[key]] for key in ("speedup", "predicted_speedup", "tau") if key in metrics]
    charts = {
        "charts/alpha_by_position": bars("α by draft position", "position", "alpha", alpha),
        "charts/acceptance_histogram": bars("Accepted draft tokens a step", "accepted", "steps", counts),
        "charts/drafters": bars("Share of the steps by who drafted", "drafter", "share", drafters),
        "charts/time_split": bars("Where a step's time goes", "part", "share", shares),
        "charts/speedup": bars("Speedup, its prediction, and its limit τ", "figure", "ratio", ratios),
    }
    if curve := summary["cost_curve"]:
        ratios_by_rows = [seconds / curve["seconds"][0] for seconds in curve["seconds"]]
        charts["charts/cost_curve"] = wandb.plot.line_series(
            xs=curve["rows"], ys=[ratios_by_rows], keys=["T(rows)/T(1)"], title="Cost of a pass", xname="rows"
        )
    return charts
