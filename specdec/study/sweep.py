"""A sweep: Hydra makes the jobs; here each of them gets its folder, and the study its leaderboard and page."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from specdec.errors import ConfigError
from specdec.measure.environment import environment
from specdec.measure.runs import Run, RunFolder, load_run, load_runs
from specdec.report import text
from specdec.study.config import TraceConfig
from specdec.study.job import JobOptions, run_job
from specdec.study.plan import check_certified, check_source, identity, instantiate, plan, values_of
from specdec.tracking import SafeTracker


def check(config: DictConfig) -> None:
    """Raises ConfigError for a job that cannot work; loads nothing."""
    job = plan(config)
    check_certified(job, config.certified)
    check_source(job.source)
    if config.batch > config.engine.max_num_seqs:
        raise ConfigError(f"batch={config.batch} exceeds engine.max_num_seqs={config.engine.max_num_seqs}. Raise that.")
    instantiate(config.tracking, "tracking")


def run(config: DictConfig) -> Run:
    """Runs one job, unless it is done. A failure is written into its folder, and the sweep goes on.

    Returns:
        What the run folder holds now.
    """
    transformers.logging.disable_progress_bar()
    job = plan(config)
    job.use_threads()
    records = job.source.load()
    name = "-".join([job.drafter.name, str(job.axes["rule"]), identity(config, records)])
    folder = RunFolder(Path(config.runs) / config.study / name)
    label = f"job {_job_number()}/{config.jobs}: {name}"
    if folder.done and not config.rerun:
        Console().print(f"{label}: done before")
        return load_run(folder.path)
    options = JobOptions(config.batch, config.baseline, config.certified, config.profile, TraceConfig(**config.trace))
    values = values_of(config)
    surroundings = environment(config.side_by_side)
    finished = folder.begin(values, job.axes, surroundings, anew=config.rerun)
    tracker = SafeTracker(instantiate(config.tracking, "tracking"))
    tracker.start(name, config.study, values | {"axes": job.axes}, surroundings, folder.path)
    with _progress(label, len(records), quiet=config.side_by_side) as advance:
        try:
            run_job(job, options, records, folder, finished, tracker, advance)
        except Exception as error:  # a job's failure, whatever it is, must not take the others with it
            folder.fail(f"{traceback.format_exc()}\n{type(error).__name__}: {error}\n")
            tracker.fail(f"{type(error).__name__}: {error}")
            return load_run(folder.path)
    result = load_run(folder.path)
    tracker.finish(result.summary, result.rows, result.steps, folder.path)
    return result


def job(config: DictConfig) -> float:
    """`run`, for Hydra. Returns tokens per second, which a search maximises; 0 for a job that failed."""
    result = run(config)
    return float(result.summary["metrics"]["tokens_per_second"]) if result.status == "done" else 0.0


class SweepEnd(Callback):  # type: ignore[misc]
    """After the last job: the leaderboard, the page, and an exit code of 1 if a job failed."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """One job."""
        self._end(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs of a sweep."""
        self._end(config)

    def _end(self, config: DictConfig) -> None:
        finish(Path(config.runs) / config.study, config.report)


def finish(folder: Path, report: bool) -> None:
    """Sums a study up; exits with 1 if a job of it failed.

    Args:
        folder: of the study.
        report: whether to make the HTML page.
    """
    runs = load_runs(folder)
    title = folder.name
    text.write(runs, title, folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(text.table(runs, title))
    if report:
        from specdec.report.page import write_report  # brings a charting library, which jobs do without

        write_report(runs, folder / "index.html", title)
        console.print(f"{folder / 'index.html'}, {folder / 'leaderboard.md'}", soft_wrap=True)
    failed = [run for run in runs if run.status == "failed"]
    for one in failed:
        console.print(f"failed: {one.name}: {(one.error or '').strip().splitlines()[-1]}", style="red", soft_wrap=True)
    if failed:
        sys.exit(1)


def _job_number() -> int:
    """Of a sweep, counted from 1."""
    hydra = HydraConfig.get()
    return int(hydra.job.num) + 1 if hydra.mode == RunMode.MULTIRUN else 1


@contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, completed=count)
