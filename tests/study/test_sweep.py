"""Whole studies through the real `main`: a command answers for the jobs that it was asked for, and for no others."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from specdec import cli, places
from specdec.measure.runs import HIDDEN, LINES, Run, load_runs
from specdec.places import UnwritableError, claimed

QUICK = ("sampling.max_tokens=3", "certified=false", "trace.prompts=0", "report=false", "baseline=false")
FAILING = ("engine.num_blocks=2",)
"""No room for a single prompt."""


def study(*words: str) -> int:
    """The exit code of `specdec study <words>`."""
    before, code = sys.argv, 0
    sys.argv = ["specdec", "study", *words]
    try:
        cli.main()
    except SystemExit as end:
        code = int(str(end.code))
    finally:
        sys.argv = before
    return code


def runs(tmp_path: Path, name: str = "benchmark") -> list[Run]:
    return load_runs(tmp_path / "runs" / name)


def test_a_failure_of_an_earlier_command_decides_nothing(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*tiny, *QUICK, *FAILING) == 1
    assert "failed: ngram-auto-" in capsys.readouterr().out
    assert study(*tiny, *QUICK) == 0
    out = capsys.readouterr().out
    assert "failed in an earlier command: ngram-auto-" in out
    assert "\nfailed: " not in out
    assert study(*tiny, *QUICK) == 0
    assert "done before" in capsys.readouterr().out
    assert study(*tiny, *QUICK, *FAILING) == 1
    assert sorted(run.status for run in runs(tmp_path)) == ["done", "failed"]
    assert not list((tmp_path / "runs" / HIDDEN / "asked").iterdir())


def test_one_job_of_a_sweep_that_cannot_be_does_not_end_the_others(
    tiny: list[str], tmp_path: Path, prompt_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its prompts cannot be had, which comes out when its turn comes."""
    bad = tmp_path / "bad, 1.jsonl"
    bad.write_text('{"question_id": 1, "category": "c", "prompt": null}\n', encoding="utf-8")
    words = [word for word in tiny if not word.startswith("data.path")]
    assert study("-m", *words, *QUICK, f"data.path=choice('{bad}','{prompt_file}')") == 1
    assert f"job 1/2: {bad}, line 1: " in " ".join(capsys.readouterr().err.split())
    assert [run.status for run in runs(tmp_path)] == ["done"]
    assert study(*words, *QUICK, f"data.path={bad}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"specdec: {bad}, line 1: ")


def test_the_wrong_rule_of_the_docs_is_refused_with_its_witness(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand, in the first test vector: p = (1/3, 2/3), q = (2/3, 1/3), so min(p, q)/2 = (1/6, 1/6) is accepted. What
    is left of p is (1/6, 1/2), which is 1 : 3; the rule draws from p. Token 0 comes with 1/6 + 2/3 · 1/3 = 7/18."""
    page = (Path(__file__).parent.parent.parent / "docs" / "add-a-rule.md").read_text(encoding="utf-8")
    (tmp_path / "docs_rule.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert study("-m", *tiny, "rule=token,docs_rule.HalvedRule", "sampling=sample") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("specdec: Job 2 of 2 (rule=docs_rule.HalvedRule): rule='halved' is not lossless")
    assert "begins with [0] with probability 7/18, not 1/3." in line
    assert "the next one follows [1/3, 2/3], and has to follow [1/4, 3/4]" in line
    assert not (tmp_path / "runs").exists()


def test_jobs_that_are_the_same_computation_run_once(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, *QUICK, "data.limit=1", "drafter=none,ngram", "rule=token,gumbel", "policy=product"]
    assert study("-m", *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    axes = [(run.axes["drafter"], run.axes["rule"], run.axes["policy"]) for run in runs(tmp_path)]
    assert sorted(axes) == [("ngram", "auto", "product"), ("none", "auto", "always")]
    pairs = re.findall(r"job (\d)/4: [\w-]+: the same computation as job (\d), run once", out)
    assert pairs == [("2", "1"), ("4", "3")]
    assert "At temperature 0 every lossless rule takes the likeliest token." in out


def test_a_tracker_gets_the_first_screen_of_the_whole_study(tiny: list[str], tmp_path: Path) -> None:
    """Also of the jobs of earlier commands; a study without a finished job has none."""
    words = [*tiny, *QUICK, "data.limit=1", "tracking._target_=tests.study.parts.Showing"]
    assert study(*words, *FAILING) == 1
    assert not list((tmp_path / "runs" / "benchmark").glob("*.html"))
    assert study(*words) == 0
    assert study("-m", *words, "drafter=none,early_exit") == 0
    folder = tmp_path / "runs" / "benchmark"
    names = (folder / "benchmark.txt").read_text(encoding="utf-8")
    assert sorted(line.partition(" ")[0] for line in names.splitlines()) == ["early_exit", "ngram", "none"]
    assert "<h2>Leaderboard</h2>" in (folder / "benchmark.html").read_text(encoding="utf-8")


def test_plain_decoding_is_its_own_baseline(tiny: list[str], tmp_path: Path) -> None:
    assert study(*tiny, *QUICK, "data.limit=2", "drafter=none", "baseline=true") == 0
    [run] = runs(tmp_path)
    assert run.summary["metrics"]["speedup"] == 1
    assert all(row["plain_stats"] == row["stats"] for row in run.rows)


def test_a_job_that_another_process_runs_is_refused_by_name(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*tiny, *QUICK, *FAILING) == 1
    [run] = runs(tmp_path)
    capsys.readouterr()
    with claimed(tmp_path / "runs" / "benchmark" / HIDDEN / "locks" / run.name):
        assert study(*tiny, *QUICK, *FAILING) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"specdec: {run.folder}: Process ")
        assert study("-m", *tiny, *QUICK, *FAILING, "drafter=ngram,none") == 1
        assert f"{run.folder}: Process " in capsys.readouterr().err
    assert {one.name.partition("-")[0] for one in runs(tmp_path)} == {"ngram", "none"}


def test_a_full_disk_ends_the_study_in_a_line_and_loses_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append, count = places.append, 0

    def full(path: Path, text: str) -> None:
        nonlocal count
        count += path.name == LINES
        if path.name == LINES and count == 3:
            raise UnwritableError(f"Cannot write {path}: No space left on device. Make room.")
        append(path, text)

    monkeypatch.setattr(places, "append", full)
    assert study("-m", *tiny, *QUICK, "drafter=none,ngram") == 2
    assert "No space left on device" in capsys.readouterr().err
    [unfinished] = runs(tmp_path)
    assert unfinished.status == "unfinished"
    kept = (unfinished.folder / LINES).read_text(encoding="utf-8").splitlines()
    assert len(kept) == 2
    assert study("-m", *tiny, *QUICK, "drafter=none,ngram") == 0
    resumed = next(run for run in runs(tmp_path) if run.name == unfinished.name)
    turns = [turn for line in kept for turn in json.loads(line)["turns"]]  # one of each prompt
    assert [row["token_ids"] for row in resumed.rows[:2]] == [turn["token_ids"] for turn in turns]
    assert [row["stats"] for row in resumed.rows[:2]] == [turn["stats"] for turn in turns]


def test_a_damaged_run_is_run_again_and_the_command_is_kept_as_typed(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, *QUICK, "study=it's, (1) ${x}"]
    assert study(*words) == 0
    [first] = runs(tmp_path, "it's, (1) ${x}")
    assert first.environment["command"].endswith("'study=it'\"'\"'s, (1) ${x}'")
    (first.folder / "rows.parquet").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="its job is run again"):
        assert study(*words) == 0
    [again] = runs(tmp_path, "it's, (1) ${x}")
    assert [row["token_ids"] for row in again.rows] == [row["token_ids"] for row in first.rows]


@pytest.mark.parametrize("name", ["", " ", "../x", "/x", "a/../../b"])
def test_a_study_is_a_folder_below_the_runs(
    name: str, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*tiny, f"study={name}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "names no folder" in line
    assert not (tmp_path / "runs").exists()


def test_a_study_where_nothing_can_be_written_is_refused(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    assert study(*tiny) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'runs'} is not a folder" in line
