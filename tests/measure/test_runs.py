"""Run folders: what is written is read back, a cut line is forgotten, a half-written file is never there."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdec.errors import ConfigError
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow, StepRow, TurnRow
from specdec.measure.runs import LINES, load_run, load_runs
from specdec.stats import DecodingStats


def row(
    index: int, tokens: list[int] | None = None, plain: list[int] | None = None, comparable: bool = True
) -> PromptRow:
    stats = DecodingStats(prompt_tokens=3, verify_seconds=0.5, draft_seconds=0.25, host_seconds=0.25)
    stats.record_step(emitted=2, drafted=3, tested=2, accepted=1, drafter="ngram")
    stats.record_step(emitted=1, drafted=0, tested=0, accepted=0)
    slow = DecodingStats(prompt_tokens=3, output_tokens=3, passes=3, verify_seconds=2.0)
    step = StepRow(index, 0, 0, 3, 3, 2, 1, ["two ", "words"], [True, False], "three", "ngram")
    turn = TurnRow('a "prompt"\n', "two words", tokens or [1, 2, 3], "length", stats,
                   "two words" if plain else None, plain, slow if plain else None)  # fmt: skip
    return PromptRow(index, f"q{index}", "kind", None, [turn], 7, comparable, 0.1, [0.2, 0.3], 0.5, 0.25, [step])


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.begin({"a": {"b": None}}, {"drafter": "ngram"}, {"machine": "m"})
    return folder


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder, rows = begun(tmp_path / "study" / "job"), [row(0, plain=[1, 2, 3]), row(1, plain=[1, 2, 4])]
    folder.append(rows)
    folder.finish(rows, {"metrics": {"tau": 1.5}})
    [run] = load_runs(tmp_path / "study")
    assert (run.name, run.status, run.error) == ("job", "done", None)
    assert run.config == {"a": {"b": None}}
    assert (run.axes, run.environment, run.summary) == (
        {"drafter": "ngram"},
        {"machine": "m"},
        {"metrics": {"tau": 1.5}},
    )
    assert [one["identical"] for one in run.rows] == [True, False]
    first = run.rows[0]
    assert (first["prompt"], first["token_ids"], first["tau"], first["alpha"]) == ('a "prompt"\n', [1, 2, 3], 1.5, 0.5)
    assert (first["tokens_per_second"], first["plain_tokens_per_second"], first["speedup"]) == (3.0, 1.5, 2.0)
    assert first["ttft_ms"] == pytest.approx(100.0)
    assert run.steps[1] == {
        "index": 1, "turn": 0, "step": 0, "anchor": 3, "drafted": 3, "tested": 2, "accepted": 1,
        "texts": ["two ", "words"], "proposed": [True, False], "rejected": "three", "drafter": "ngram",
    }  # fmt: skip
    assert folder.done
    assert not (folder.path / LINES).exists()


def test_identity_is_claimed_only_where_it_is_promised() -> None:
    assert row(0, plain=[1, 2, 3]).identical is True
    assert row(0, plain=[9]).identical is False
    assert row(0, plain=[9], comparable=False).identical is None
    assert row(0).identical is None


def test_a_killed_job_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.append([row(0), row(1)])
    with (tmp_path / LINES).open("a", encoding="utf-8") as file:
        file.write('{"index": 2, "question_id": "q')  # the power went out here
    assert load_run(tmp_path).status == "unfinished"
    assert begin_again(tmp_path) == [row(0), row(1)]
    RunFolder(tmp_path).append([row(2)])
    assert begin_again(tmp_path) == [row(0), row(1), row(2)]


def begin_again(path: Path) -> list[PromptRow]:
    return RunFolder(path).begin({"a": {"b": None}}, {"drafter": "ngram"}, {"machine": "m"})


def test_a_failed_job_says_why_until_it_is_tried_again(tmp_path: Path) -> None:
    begun(tmp_path).fail("Traceback\nValueError: no\n")
    assert (load_run(tmp_path).status, load_run(tmp_path).error) == ("failed", "Traceback\nValueError: no\n")
    begun(tmp_path)
    assert (load_run(tmp_path).status, load_run(tmp_path).error) == ("unfinished", None)


def test_running_anew_forgets_everything(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.append([row(0)])
    folder.finish([row(0)], {"metrics": {}})
    assert RunFolder(tmp_path).begin({}, {}, {}, anew=True) == []
    assert not folder.done


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No run folders"):
        load_runs(tmp_path)


def test_a_figure_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.append([row(0)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.finish([row(0)], {"metrics": {"tau": float("nan")}})
    assert not folder.done
