"""Nothing that a tracker is told is lost, and nothing that goes wrong in one costs a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from specdec.errors import ConfigError
from specdec.measure.folders import RunFolder
from specdec.measure.runs import TRACE, Run, load_run
from specdec.measure.summary import summarize
from specdec.stats import DecodingStats
from specdec.tracking import NoTracker, SafeTracker, Tracker, workspace
from specdec.tracking.base import Screen
from specdec.tracking.trackio import TrackioTracker
from specdec.tracking.wandb import PROMPT_SCALARS, PROMPT_TEXTS, WandbTracker, has_credentials
from tests.measure.test_runs import row
from tests.tracking.wandb_file import WandbFile, read

ROOT = Path(__file__).parent.parent.parent
STEPS = [{"drafted": 3.0, "tested": 2.0, "accepted": 1.0, "emitted": 2.0, "kv_occupancy": 0.125},
         {"drafted": 0.0, "tested": 0.0, "accepted": 0.0, "emitted": 1.0, "kv_occupancy": 0.25}]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A small job that is done."""
    folder, plain = RunFolder(tmp_path / "study" / "job"), DecodingStats(output_tokens=3, passes=3, verify_seconds=1.25)
    rows = [row(index, plain=[1, 2, 3]) for index in range(2)]
    rows = [replace(one, turns=[replace(one.turns[0], plain_stats=plain)]) for one in rows]  # 1.25 times as fast
    folder.begin({"drafter": {"gamma": 5}}, {"drafter": "ngram"}, {"machine": "a machine"})
    folder.append(rows)
    found = {"tv_by_position": [0.5, 0.25, 0.75], "calibration": [{"confidence": 0.5, "accepted": 0.25, "count": 4}],
             "survival": [{"drafter": "ngram", "kind": 3, "rate": 0.75, "weight": 4.0}],
             "cost_curve": {"rows": [1, 2, 4], "seconds": [1.0, 1.0, 1.5]}, "certificate": None}  # fmt: skip
    (folder.path / TRACE).write_bytes(b"as recorded")
    folder.finish(rows, summarize(rows, curve=lambda rows: 1.0, **found))
    return load_run(folder.path)


def tell(tracker: Tracker, run: Run, folder: Path) -> None:
    tracker.start(run.name, "study", run.config, run.environment, folder)
    for values in STEPS:
        tracker.step(values)
    for each in run.rows:
        tracker.prompt(each)
    tracker.finish(run.summary, run.rows, run.steps, run.folder)


CURVE = [{"step": 10, "loss": 1.5, "accuracy/1": 0.25}, {"step": 20, "loss": 1.25, "held_out/tau": 1.75}]


def test_the_curves_of_training_are_in_the_file(tmp_path: Path) -> None:
    import wandb

    tracker = SafeTracker(WandbTracker())
    tracker.start("head", "training", {"seed": 3}, {"machine": "a machine"}, tmp_path)
    for values in CURVE:
        tracker.point(values)
    tracker.close()
    wandb.teardown()
    [path] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = read(path)
    told = [{name: value for name, value in record.items() if name.startswith("train/")} for record in found.history]
    assert told == [{f"train/{name}": value for name, value in values.items()} for values in CURVE]
    assert found.run["group"] == "training"
    assert found.exit_code == 0


@pytest.fixture
def file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbFile:
    """What an offline run of it wrote."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)  # wandb talks to a process of its own on this machine
    return offline(run, tmp_path)


def offline(run: Run, folder: Path) -> WandbFile:
    import wandb

    tell(WandbTracker(), run, folder)
    wandb.teardown()  # the process that writes the file closes it a moment after `finish`
    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
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
def test_tables_charts_and_the_run_folder_are_in_the_file(file: WandbFile, run: Run) -> None:
    """The list of what a run file contains besides its history."""
    names = {name for _, _, files in file.artifacts for name in files}
    assert names == {
        "tables/prompts.table.json", "tables/categories.table.json", "tables/acceptance.table.json",
        "tables/calibration.table.json", "tables/drafters.table.json", "tables/survival.table.json",
        "charts/drafters_table.table.json",
        "charts/alpha_by_position_table.table.json",
        "charts/acceptance_histogram_table.table.json", "charts/time_split_table.table.json",
        "charts/speedup_table.table.json", "charts/cost_curve_table.table.json",
        "axes.json", "config.yaml", "environment.json", "rows.parquet", "steps.parquet", "summary.json",
        "trace.safetensors",
    }  # fmt: skip
    [folder] = [files for _, kind, files in file.artifacts if kind == "run-folder"]
    assert set(folder) == {path.name for path in run.folder.iterdir() if path.is_file()}
    charts = {key.rpartition("charts/")[2] for key in file.config if key.startswith("_wandb.visualize.charts/")}
    assert charts == {"alpha_by_position", "acceptance_histogram", "time_split", "speedup", "cost_curve", "drafters"}


@pytest.mark.xdist_group("wandb")
def test_no_cell_of_a_table_is_lost(file: WandbFile, run: Run, tmp_path: Path) -> None:
    tables = {}
    for path in tmp_path.glob("wandb/offline-run-*/files/media/table/tables/*.table.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        tables[path.name.partition("_")[0]] = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    for line, each in zip(tables["prompts"], run.rows, strict=True):
        assert line.keys() == {*PROMPT_SCALARS, *PROMPT_TEXTS}
        assert line == {name: each[name] for name in line}
    [(kind, figures)] = run.summary["by_category"].items()
    assert tables["categories"] == [{"category": kind, **figures}]
    assert tables["acceptance"] == [  # three positions were drafted, two of them ever tested
        {"position": 1, "alpha": 1.0, "cumulative": 1.0, "tv": 0.5},
        {"position": 2, "alpha": 0.0, "cumulative": 0.0, "tv": 0.25},
        {"position": 3, "alpha": None, "cumulative": None, "tv": 0.75},
    ]
    assert tables["calibration"] == run.summary["calibration"]
    assert tables["survival"] == run.summary["survival"]
    assert tables["drafters"] == run.summary["by_drafter"]
    assert [(one["category"], one["drafter"], one["steps"]) for one in tables["drafters"]] == [
        (None, "ngram", 2), (None, "none", 2), ("kind", "ngram", 2), ("kind", "none", 2)
    ]  # fmt: skip


@pytest.mark.xdist_group("wandb")
def test_a_speedup_that_cannot_be_true_is_not_sent(run: Run, tmp_path: Path) -> None:
    ratios = {"speedup": 9.0, "speedup_low": 8.0, "speedup_high": 10.0, "speedup_with_prefill": 8.5}
    run.summary["metrics"] |= ratios | {"credible": False}
    file = offline(run, tmp_path)
    assert not {"speedup", "speedup_low", "speedup_high", "speedup_with_prefill"} & set(file.summary)
    assert (file.summary["credible"], file.summary["tau"]) == (False, 1.5)
    [chart] = tmp_path.glob("wandb/offline-run-*/files/media/table/charts/speedup_table_*.table.json")
    assert "speedup" not in dict(json.loads(chart.read_text(encoding="utf-8"))["data"])


@pytest.mark.xdist_group("wandb")
def test_the_dashboard_shows_nothing_that_is_not_logged(file: WandbFile, study_file: WandbFile) -> None:
    pytest.importorskip("wandb_workspaces", reason="no wandb-workspaces: pip install 'specdec-lab[workspaces]'")
    logged = {key for one in (file, study_file) for line in one.history for key in line} | set(file.summary)
    logged |= {key.rpartition(".")[0] for key in logged}
    shown = {name for panels in workspace.SECTIONS.values() for panel in panels for name in panel.metrics}
    assert shown <= logged
    for made in (workspace.workspace("me", "specdec"), workspace.report("me", "specdec")):
        told = json.dumps(asdict(made), default=str)
        assert all(name in told for name in shown)
    first, *_ = workspace.workspace("me", "specdec").sections
    assert first.panels[0].media_keys == ["study/first_screen"]
    [grid, *_] = [block for block in workspace.report("me", "specdec").blocks if type(block).__name__ == "PanelGrid"]
    assert grid.panels[0].media_keys == ["study/first_screen"]


SCREEN = Screen(
    "<!doctype html><p>ngram · auto leads: größer</p>", ("Condition", "Method", "Speedup"), [["", "ngram", "1.5"]]
)


@pytest.fixture
def study_file(tmp_path: Path) -> WandbFile:
    """What the run of a study wrote."""
    import wandb

    WandbTracker().study("rivers", SCREEN, tmp_path / "rivers")
    wandb.teardown()
    [path] = tmp_path.glob("rivers/wandb/offline-run-*/run-*.wandb")
    return read(path)


@pytest.mark.xdist_group("wandb")
def test_a_study_has_a_run_with_its_first_screen(study_file: WandbFile, tmp_path: Path) -> None:
    assert study_file.run == {"name": "rivers", "group": "rivers", "project": "specdec"}
    assert study_file.exit_code == 0
    [page] = tmp_path.glob("rivers/wandb/offline-run-*/files/media/html/study/first_screen_*.html")
    assert page.read_text(encoding="utf-8") == SCREEN.html
    [table] = tmp_path.glob("rivers/wandb/offline-run-*/files/media/table/study/leaderboard_*.table.json")
    told = json.loads(table.read_text(encoding="utf-8"))
    assert (told["columns"], told["data"]) == (list(SCREEN.columns), SCREEN.rows)


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


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A netrc file that is not there yet, and no other key."""
    import wandb
    from wandb.sdk.lib import wbauth

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # settings are read once
    yield tmp_path / "netrc"
    wbauth.unauthenticate_session()


@pytest.mark.xdist_group("wandb")
def test_a_key_is_found_where_wandb_login_leaves_it(logged_out: Path) -> None:
    from wandb.sdk.lib import urls, wbauth

    logged_out.write_text(f"machine example.org login user password {'x' * 40}\n", encoding="utf-8")
    assert not has_credentials()
    wbauth.write_netrc_auth(host=urls.DEFAULT_BASE_URL, api_key="x" * 40)
    assert has_credentials()


@pytest.mark.xdist_group("wandb")
def test_online_without_a_key_is_refused_before_wandb_asks(
    logged_out: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("wandb.init was reached"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.warns(UserWarning, match="wandb login.*tracking=wandb_offline") as caught:
        tell(SafeTracker(WandbTracker(mode="online")), run, tmp_path)
    assert len(caught) == 1
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        has_credentials()


@pytest.mark.parametrize("choice", ["none", "wandb", "wandb_offline"])
def test_every_choice_makes_a_tracker(choice: str) -> None:
    """trackio's: below."""
    assert isinstance(instantiate(OmegaConf.load(ROOT / f"configs/tracking/{choice}.yaml")), Tracker)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "trackio", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'specdec-lab\[trackio\]'"):
        TrackioTracker()
    with pytest.raises(ConfigError, match=r"pip install 'specdec-lab\[wandb\]'"):
        WandbTracker()
    with pytest.raises(ConfigError, match=r"pip install 'specdec-lab\[workspaces\]'"):
        workspace.workspace("me", "specdec")


@pytest.mark.slow
def test_trackio_keeps_every_line_and_nothing_is_imported_before_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    """In a process of its own: trackio settles where its databases are when it is imported."""
    pytest.importorskip("trackio", reason="no trackio: pip install 'specdec-lab[trackio]'")
    code = """
import json, sys
from pathlib import Path
import specdec, specdec.cli
early = [name for name in ("wandb", "trackio", "altair") if name in sys.modules]
from hydra.utils import instantiate
from omegaconf import OmegaConf
from specdec.measure.runs import load_run
from tests.tracking.test_trackers import tell
run = load_run(Path(sys.argv[1]))
tell(instantiate(OmegaConf.load("configs/tracking/trackio.yaml")), run, Path(sys.argv[2]))
import trackio
print("TOLD" + json.dumps([early, trackio.SQLiteStorage.get_logs("specdec", run.name)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.folder), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    early, logs = json.loads(done.stdout.rpartition("TOLD")[2])
    assert early == []
    assert [{key: line[f"step/{key}"] for key in STEPS[0]} for line in logs[:2]] == STEPS
    assert [line["prompt/tau"] for line in logs[2:4]] == [each["tau"] for each in run.rows]
    told = {key: value for key, value in run.summary["metrics"].items() if value is not None}
    assert {key: logs[4][f"summary/{key}"] for key in told} == pytest.approx(told)
