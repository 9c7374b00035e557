"""Nothing that a tracker is told is lost, and nothing that goes wrong in one costs a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from specdec.errors import ConfigError
from specdec.tracking import workspace
from specdec.tracking.runs import Run, RunFolder, load_run
from specdec.tracking.summary import summarize
from specdec.tracking.trackers import NoTracker, SafeTracker, Tracker
from specdec.tracking.trackers.wandb import PROMPT_SCALARS, WandbTracker, has_credentials
from tests.tracking.test_runs import row
from tests.tracking.wandb_file import WandbFile, read

STEPS = [{"drafted": 3.0, "tested": 2.0, "accepted": 1.0, "emitted": 2.0, "kv_occupancy": 0.125},
         {"drafted": 0.0, "tested": 0.0, "accepted": 0.0, "emitted": 1.0, "kv_occupancy": 0.25}]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A small job that is done."""
    folder, rows = RunFolder(tmp_path / "study" / "job"), [row(0, plain=[1, 2, 3]), row(1, plain=[1, 2, 3])]
    folder.begin({"drafter": {"gamma": 5}}, {"drafter": "ngram"}, {"machine": "a machine"})
    folder.append(rows)
    found = {"tv_by_position": [0.5], "calibration": [{"confidence": 0.5, "accepted": 0.25, "count": 4}],
             "cost_curve": {"rows": [1, 2, 4], "seconds": [1.0, 1.0, 1.5]}, "certificate": None}  # fmt: skip
    folder.finish(rows, summarize(rows, curve=lambda rows: 1.0, **found))
    return load_run(folder.path)


def tell(tracker: Tracker, run: Run, folder: Path) -> None:
    tracker.start(run.name, "study", run.config, run.environment, folder)
    for values in STEPS:
        tracker.step(values)
    for each in run.rows:
        tracker.prompt(each)
    tracker.finish(run.summary, run.rows, run.steps, run.folder)


@pytest.fixture
def file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbFile:
    """What an offline run of it wrote."""
    import wandb

    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)  # wandb talks to a process of its own on this machine
    tell(WandbTracker(), run, tmp_path)
    wandb.teardown()  # the process that writes the file closes it a moment after `finish`
    [path] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    return read(path)


@pytest.mark.xdist_group("wandb")
def test_an_offline_run_holds_everything_it_was_told(file: WandbFile, run: Run) -> None:
    assert file.run == {"name": "job", "group": "study", "project": "specdec"}
    assert file.config["config"] == {"drafter": {"gamma": 5}}
    assert file.config["environment"] == {"machine": "a machine"}
    assert file.exit_code == 0
    assert {"step/*", "prompt/*"} <= set(file.metrics)
    steps = [{k.removeprefix("step/"): v for k, v in line.items() if k.startswith("step/")} for line in file.history]
    steps = [step for step in steps if step]
    assert [{key: step[key] for key in STEPS[0]} for step in steps] == STEPS
    assert [(step["number"], step["running_tau"], step["running_alpha"]) for step in steps] == [
        (1, 2.0, 0.5),
        (2, 1.5, 0.5),
    ]
    prompts = [line for line in file.history if "prompt/number" in line]
    for line, each in zip(prompts, run.rows, strict=True):
        assert {key: line[f"prompt/{key}"] for key in PROMPT_SCALARS} == {key: each[key] for key in PROMPT_SCALARS}
    told = {key: value for key, value in run.summary["metrics"].items() if value is not None}
    assert {key: file.summary[key] for key in told} == pytest.approx(told)


@pytest.mark.xdist_group("wandb")
def test_tables_charts_and_the_run_folder_are_in_the_file(file: WandbFile) -> None:
    """The list of what a run file contains besides its history."""
    names = {name for _, _, files in file.artifacts for name in files}
    assert names == {
        "tables/prompts.table.json", "tables/categories.table.json", "tables/acceptance.table.json",
        "tables/calibration.table.json", "charts/alpha_by_position_table.table.json",
        "charts/acceptance_histogram_table.table.json", "charts/time_split_table.table.json",
        "charts/speedup_table.table.json", "charts/cost_curve_table.table.json",
        "axes.json", "config.yaml", "environment.json", "rows.parquet", "steps.parquet", "summary.json",
    }  # fmt: skip
    [folder] = [files for _, kind, files in file.artifacts if kind == "run-folder"]
    assert "rows.parquet" in folder
    charts = {key.rpartition("charts/")[2] for key in file.config if key.startswith("_wandb.visualize.charts/")}
    assert charts == {"alpha_by_position", "acceptance_histogram", "time_split", "speedup", "cost_curve"}


@pytest.mark.xdist_group("wandb")
def test_the_dashboard_shows_nothing_that_is_not_logged(file: WandbFile) -> None:
    pytest.importorskip("wandb_workspaces", reason="pip install 'specdec-lab[workspaces]'")
    logged = {key for line in file.history for key in line} | set(file.summary)
    logged |= {key.rpartition(".")[0] for key in logged}
    shown = {name for panels in workspace.SECTIONS.values() for panel in panels for name in panel.metrics}
    assert shown <= logged
    for made in (workspace.workspace("me", "specdec"), workspace.report("me", "specdec")):
        told = json.dumps(asdict(made), default=str)
        assert all(name in told for name in shown)


class Broken(NoTracker):
    """Every call fails, and is counted."""

    calls = 0

    def start(self, *args: Any) -> None:
        type(self).calls += 1
        raise OSError("no space left")


class BrokenLater(NoTracker):
    """Fails at the second step."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, values: Mapping[str, float]) -> None:
        self.steps += 1
        if self.steps == 2:
            raise RuntimeError("the server hung up")
        assert self.steps < 2, "called again after it failed"


@pytest.mark.parametrize("broken", [Broken, BrokenLater])
def test_a_tracker_that_fails_warns_once_and_is_left_alone(broken: type[Tracker], run: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = SafeTracker(broken())
        tell(tracker, run, tmp_path)
        tell(tracker, run, tmp_path)
        tracker.fail("too late")
    assert len(caught) == 1
    assert "is off from here on, the run goes on" in str(caught[0].message)


def test_online_without_credentials_is_refused_before_wandb_asks(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_credentials()
    with pytest.raises(ConfigError, match="wandb login"):
        WandbTracker(mode="online").start("n", "s", {}, {}, tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n", encoding="utf-8")
    assert has_credentials()
    (tmp_path / "netrc").write_text("machine example.org login user password x\n", encoding="utf-8")
    assert not has_credentials()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_credentials()


def test_trackio_keeps_every_line(run: Run, tmp_path: Path) -> None:
    """In a process of its own: trackio settles where its databases are when it is imported."""
    pytest.importorskip("trackio", reason="pip install 'specdec-lab[trackio]'")
    code = """
import json, sys
from pathlib import Path
from specdec.tracking.runs import load_run
from specdec.tracking.trackers.trackio import TrackioTracker
from tests.tracking.test_trackers import tell
run = load_run(Path(sys.argv[1]))
tell(TrackioTracker("project"), run, Path(sys.argv[2]))
import trackio
print("LOGS" + json.dumps(trackio.SQLiteStorage.get_logs("project", run.name)))
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.folder), str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logs = json.loads(done.stdout.rpartition("LOGS")[2])
    assert [{key: line[f"step/{key}"] for key in STEPS[0]} for line in logs[:2]] == STEPS
    assert [line["prompt/tau"] for line in logs[2:4]] == [each["tau"] for each in run.rows]
    told = {key: value for key, value in run.summary["metrics"].items() if value is not None}
    assert {key: logs[4][f"summary/{key}"] for key in told} == pytest.approx(told)


def test_importing_specdec_imports_no_tracker() -> None:
    code = "import sys, specdec, specdec.cli; print([m for m in ('wandb', 'trackio', 'altair') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
