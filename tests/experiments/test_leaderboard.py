"""The leaderboard by its one command, reduced: a tiny target, two drafters, two categories."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments import leaderboard
from specdec.commands.application import config_dir
from specdec.measure.runs import load_runs
from specdec.study import preflight
from specdec.study.plan import plan
from tests.study.conftest import prompt_file, tiny, tiny_folder  # noqa: F401 - fixtures


@pytest.mark.slow
def test_one_command_makes_the_table_and_goes_on_where_it_was(
    tiny: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    settings = [*tiny, "drafter=none,ngram", "sampling.max_tokens=6", "trace.prompts=0", "certified=false"]

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["leaderboard", "--output", str(tmp_path / "docs"), *words])
        with pytest.raises(SystemExit) as ended:
            leaderboard.main()
        return int(ended.value.code or 0)

    assert run(*settings) == 0
    runs = load_runs(tmp_path / "runs" / "leaderboard")
    where = {(run.axes["drafter"], run.axes["temperature"], run.axes["batch"]) for run in runs}
    assert where == {(drafter, t, batch) for drafter in ("none", "ngram") for t in (0.0, 1.0) for batch in (1, 8)}
    page = (tmp_path / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| method | drafting | MB | all prompts | colours | counting |" in page
    conditions = [line for line in page.splitlines() if line.startswith("### ")]  # of speeds, then of differences
    wanted = [f"### temperature {t}, batch {batch}" for t in ("0.0", "1.0") for batch in (1, 8)]
    assert conditions[:4] == wanted
    assert set(conditions) == set(wanted)
    assert "Left out: model. " in page
    started = {run.name: run.environment["started"] for run in runs}
    assert run(*settings) == 0
    assert {run.name: run.environment["started"] for run in load_runs(tmp_path / "runs" / "leaderboard")} == started


def test_a_line_for_a_policy_that_chooses_among_drafters(tiny: list[str]) -> None:  # noqa: F811
    words = leaderboard.chooser_words(["suffix", "ngram"], "always", [*tiny, "drafter=none,ngram", "policy=product"])
    configs = preflight.jobs(config_dir(), "study", words[1:])
    axes = [plan(config).axes for config in configs]
    assert {(one["drafter"], one["policy"]) for one in axes} == {("suffix+ngram", "always")}
    assert [(one["temperature"], one["batch"]) for one in axes] == [(0.0, 1), (0.0, 8), (1.0, 1), (1.0, 8)]
    assert {config.study for config in configs} == {"leaderboard"}  # beside the others


def test_a_setting_that_does_not_exist_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leaderboard", "drafters=ngram"])
    with pytest.raises(SystemExit) as ended:
        leaderboard.main()
    assert ended.value.code == 2
    assert "Could not override 'drafters'. Did you mean drafter?" in capsys.readouterr().err
