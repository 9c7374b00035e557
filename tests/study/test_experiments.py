"""Every study that is written down runs: all its jobs, on a tiny target with as many layers as the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdec.commands.application import config_dir
from specdec.study import choices, preflight, sweep
from tests.fewer import every

EXPERIMENTS = sorted(path.stem for path in (Path(config_dir()) / "experiment").glob("*.yaml"))
TINY = ("sampling.max_tokens=3", "data.limit=1", "certified=false", "trace.prompts=0", "report=false")
FEWER = {"leaderboard": ["drafter=none,ngram"]}
"""Of the drafters."""


@pytest.mark.parametrize("name", every(2, EXPERIMENTS))
def test_every_experiment_runs(name: str, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "_job_number", lambda: 1)  # Hydra is not running here
    words = ["-m", f"experiment={name}", *tiny, *TINY, *FEWER.get(name, ())]
    runs = [sweep.run(config) for config in preflight.jobs(config_dir(), "study", words)]
    assert [(run.status, run.error) for run in runs] == [("done", None)] * len(runs)
    assert len({run.name for run in runs}) == len(runs) >= 2
    sweep.finish(tmp_path / "runs" / name, report=False)
    board = (tmp_path / "runs" / name / "leaderboard.md").read_text(encoding="utf-8")
    # Which tables follow depends on what was measured: what cannot be is compared with nothing.
    methods = board.split("\n\n")[1].splitlines()
    assert len(methods) == len(["its head", "its rule", *runs])


@pytest.mark.slow
def test_every_job_of_the_leaderboard_is_possible(tiny: list[str]) -> None:
    """All registered drafters, at both temperatures and batches: checked as before a study, but for the rules."""
    configs = preflight.jobs(config_dir(), "study", ["-m", "experiment=leaderboard", *tiny, "certified=false"])
    names, reasons = choices.runnable()
    assert len(configs) == 4 * len(names)
    for config in configs:
        sweep.check(config)
        assert config.note == " ".join(reasons)
