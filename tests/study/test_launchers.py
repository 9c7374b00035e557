"""Whole commands: a sweep that is killed, and the same sweep in one process, through joblib, and through Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specdec.measure.runs import LINES, load_runs

ROOT = Path(__file__).parent.parent.parent
SWEEP = ("-m", "drafter=none,ngram", "sampling=sample", "rule=gumbel", "sampling.max_tokens=8", "report=false",
         "certified=false", "trace.prompts=0")  # fmt: skip


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "specdec", "study", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=env,
    )  # fmt: skip


def facts(study: Path) -> dict[str, list[Any]]:
    return {run.name: [(row["token_ids"], row["tau"], row["alpha"]) for row in run.rows] for run in load_runs(study)}


@pytest.mark.slow
@pytest.mark.xdist_group("launchers")
def test_a_killed_sweep_goes_on_and_every_launcher_finds_the_same(tiny: list[str], tmp_path: Path) -> None:
    killing = ["tracking._target_=tests.study.parts.Killing", "+tracking.after=2"]
    killed = benchmark(*SWEEP, *tiny, *killing, "study=a")
    assert killed.returncode == -9, killed.stderr
    [unfinished] = load_runs(tmp_path / "runs" / "a")
    assert unfinished.status == "unfinished"
    before = (unfinished.folder / LINES).read_text(encoding="utf-8").splitlines()
    assert len(before) == 2
    resumed = benchmark(*SWEEP, *tiny, "study=a")
    assert resumed.returncode == 0, resumed.stderr
    assert "job 2/2" in resumed.stdout
    joblib = benchmark(*SWEEP, *tiny, "study=b", "launcher=joblib")
    assert joblib.returncode == 0, joblib.stderr
    assert facts(tmp_path / "runs" / "b") == facts(tmp_path / "runs" / "a")
    assert all(run.environment["side_by_side"] for run in load_runs(tmp_path / "runs" / "b"))
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="no ray: pip install 'specdec-lab[ray]'")
    ray = benchmark(*SWEEP, *tiny, "study=c", "launcher=ray")
    assert ray.returncode == 0, ray.stderr
    assert facts(tmp_path / "runs" / "c") == facts(tmp_path / "runs" / "a")
