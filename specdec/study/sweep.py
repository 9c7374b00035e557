"""A sweep: Hydra makes the jobs; here each of them gets its folder, and the study its leaderboard and page."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
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

from specdec.errors import ConfigError, SpecdecError
from specdec.measure.environment import environment
from specdec.measure.folders import RunFolder
from specdec.measure.inputs import inputs
from specdec.measure.planned import load_study, note_planned
from specdec.measure.runs import Run, load_run, load_runs
from specdec.places import BusyError, UnwritableError, check_folder
from specdec.prompts import PromptRecord
from specdec.report import text
from specdec.study import ledger
from specdec.study.config import TraceConfig
from specdec.study.job import JobOptions, run_job
from specdec.study.plan import (
    NOT_IDENTITY,
    Plan,
    check_certified,
    check_source,
    identity,
    instantiate,
    plan,
    values_of,
)
from specdec.study.sameness import simplest
from specdec.tracking import SafeTracker, Tracker


def check(config: DictConfig) -> None:
    """Raises ConfigError for a job that cannot work; loads nothing."""
    job = plan(config)
    check_certified(job, config.certified)
    check_source(job.source)
    if config.batch > config.engine.max_num_seqs:
        raise ConfigError(f"batch={config.batch} exceeds engine.max_num_seqs={config.engine.max_num_seqs}. Raise that.")
    if not config.study.strip() or ".." in Path(config.study).parts or Path(config.study).is_absolute():
        raise ConfigError(
            f"study={config.study!r} names no folder in {config.runs}. Give a name; runs=… moves them all."
        )
    check_folder("runs", Path(config.runs) / config.study)
    instantiate(config.tracking, "tracking")


def plan_all(configs: Sequence[DictConfig]) -> None:
    """Notes the jobs of a command, for pages that are made while it runs; equal ones count once."""
    studies: dict[Path, list[dict[str, Any]]] = {}
    for config in configs:
        job, _ = _simplest_plan(config)
        studies.setdefault(Path(config.runs) / config.study, []).append(job.axes)
    for folder, axes in studies.items():
        note_planned(folder, axes)


def run(config: DictConfig) -> Run | None:
    """Runs one job, unless it is done. A failure is written into its folder.

    Returns:
        What the run folder holds now; None if an earlier job of this command is the same computation.

    Raises:
        BusyError: if another process runs this job.
        UnwritableError: if its folder cannot be written.
        ConfigError: if its prompts cannot be had.
    """
    transformers.logging.disable_progress_bar()
    job, same = _simplest_plan(config)
    job.use_threads()
    records = job.source.load()
    name = "-".join([*(one.name for one in job.drafters), str(job.axes["rule"]), identity(config, records)])
    settings = {key: value for key, value in values_of(config).items() if key not in NOT_IDENTITY}
    folder = RunFolder(Path(config.runs) / config.study / name, records, settings)
    label = f"job {_job_number()}/{config.jobs}: {name}"
    if (first := ledger.note(config, name, _job_number())) != _job_number():
        Console().print(f"{label}: the same computation as job {first}, run once. {same}".rstrip(), soft_wrap=True)
        return None
    with folder.claimed():
        finished = folder.finished()
        if finished is not None and not config.rerun:
            Console().print(f"{label}: done before")
            return finished
        return _run_claimed(config, job, records, folder, label)


def _simplest_plan(config: DictConfig) -> tuple[Plan, str]:
    """The plan of a job, whose configuration becomes the simplest that computes the same; and what was made simpler."""
    job = plan(config)
    same = simplest(config, job)
    return (plan(config) if same else job), same


def _run_claimed(config: DictConfig, job: Plan, records: Sequence[PromptRecord], folder: RunFolder, label: str) -> Run:
    options = JobOptions(config.batch, config.baseline, config.certified, config.profile, TraceConfig(**config.trace))
    values = values_of(config)
    surroundings = environment(config.side_by_side) | inputs(values, records)
    surroundings["command"] = config.command or surroundings["command"]
    anew = config.rerun or any(
        each.shares for each in job.drafters
    )  # what they had learnt from earlier prompts is gone
    done = folder.begin(values, job.axes, surroundings, anew)
    tracker = SafeTracker(instantiate(config.tracking, "tracking"))
    tracker.start(folder.path.name, config.study, values | {"axes": job.axes}, surroundings, folder.path)
    with _progress(label, len(records), quiet=config.side_by_side) as advance:
        try:
            run_job(job, options, records, folder, done, tracker, advance)
        except (UnwritableError, BrokenPipeError) as error:  # the study cannot go on either
            tracker.fail(f"{type(error).__name__}: {error}")
            raise
        except Exception as error:  # a job's failure, whatever it is, must not take the others with it
            folder.fail(f"{traceback.format_exc()}\n{type(error).__name__}: {error}\n")
            tracker.fail(f"{type(error).__name__}: {error}")
            return load_run(folder.path)
    result = load_run(folder.path)
    tracker.finish(result.summary, result.rows, result.steps, folder.path)
    return result


def job(config: DictConfig) -> float:
    """`run`, for Hydra: what one job of a sweep cannot do does not end the sweep.

    Returns:
        Tokens per second, which a search maximises; 0 for a job that failed.
    """
    try:
        result = run(config)
    except UnwritableError:
        raise
    except SpecdecError as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        problem = f"job {_job_number()}/{config.jobs}: {error}"
        Console(stderr=True).print(problem, style="red", soft_wrap=True, markup=False, highlight=False)
        if not isinstance(error, BusyError):
            ledger.note_problem(config, problem)
        return 0.0
    done = result is not None and result.status == "done"
    return float(result.summary["metrics"]["tokens_per_second"]) if result is not None and done else 0.0


class SweepEnd(Callback):  # type: ignore[misc]
    """After the last job: the leaderboard, the page, and an exit code of 1 if a job of this command is not done."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """One job."""
        self._end(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs of a sweep."""
        self._end(config)

    def _end(self, config: DictConfig) -> None:
        asked, problems = ledger.read(config)
        studies = list(dict.fromkeys(study for study, _ in asked))
        complete = not problems
        for study in studies:
            names = {name for of, name in asked if of == study}
            complete &= finish(Path(config.runs) / study, config.report, names)
            _track(config, Path(config.runs) / study)
        if not complete:
            sys.exit(1)


def _track(config: DictConfig, folder: Path) -> None:
    """Sends what a study found to its tracker, if that shows documents."""
    tracker = instantiate(config.tracking, "tracking")
    if type(tracker).study is Tracker.study:
        return
    runs = load_runs(folder)
    if not any(run.status == "done" for run in runs):
        return
    from specdec.report.screen import first_screen  # brings a charting library, as `write_report` does

    SafeTracker(tracker).study(folder.name, first_screen(runs, folder.name), folder)


def finish(folder: Path, report: bool, asked: set[str] | None = None) -> bool:
    """Sums a study up.

    Args:
        folder: of the study.
        report: whether to make the HTML page.
        asked: names of the jobs that were asked for; None stands for all that are there.

    Returns:
        Whether every job that was asked for is done.
    """
    runs = load_runs(folder)
    title = folder.name
    text.write(runs, title, folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(text.table(runs, title))
    if report:
        from specdec.report.page import write_report  # brings a charting library, which jobs do without

        write_report(load_study(folder), folder / "index.html", title)
        console.print(f"{folder / 'index.html'}, {folder / 'leaderboard.md'}", soft_wrap=True, markup=False)
    lacking = [run for run in runs if run.status != "done" and (asked is None or run.name in asked)]
    for one in lacking:
        reason = (one.error or "it is not finished; the same command goes on").strip().splitlines()[-1]
        console.print(f"{one.status}: {one.name}: {reason}", style="red", soft_wrap=True, markup=False)
    if others := [run.name for run in runs if run.status == "failed" and run not in lacking]:
        console.print(f"failed in an earlier command: {', '.join(others)}", style="dim", soft_wrap=True, markup=False)
    return not lacking and (asked is None or asked <= {run.name for run in runs})


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
