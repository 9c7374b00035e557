"""Answer files, beside lines written by hand after Spec-Bench's own writer (its evaluation/eval.py)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from specdec import ConfigError, cli
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow, StepRow, TurnRow
from specdec.measure.runs import Run, load_run, load_runs
from specdec.measure.summary import summarize
from specdec.report.methods import methods
from specdec.report.specbench import answers, write_answers
from specdec.report.tokens import token_view
from specdec.stats import DecodingStats

NO_FIGURES = {"tv_by_position": [], "calibration": [], "survival": [], "cost_curve": None, "certificate": None}


def stats(prompt: int, emitted: list[int], seconds: float) -> DecodingStats:
    """Of a turn with these steps; reading its prompt took a quarter of a second more."""
    of = DecodingStats(prompt_tokens=prompt, prefill_seconds=0.25, verify_seconds=seconds - 0.5,
                       draft_seconds=0.375, host_seconds=0.125)  # fmt: skip
    for count in emitted:
        of.record_step(count, 4, min(count, 4), count - 1, "ngram")
    return of


def turn(prompt: str, text: str, of: DecodingStats, plain: bool) -> TurnRow:
    tokens = list(range(of.output_tokens))
    slow = stats(of.prompt_tokens, [1] * of.output_tokens, 4.0) if plain else None
    return TurnRow(prompt, text, tokens, "length", of, text if plain else None, tokens if plain else None, slow)


def steps(index: int, number: int, prompt: int, emitted: list[int], first: int = 0) -> list[StepRow]:
    anchors = [prompt + sum(emitted[:step]) for step in range(len(emitted))]
    return [
        StepRow(index, number, step, anchor, 4, 1, 0, [], [], None, "ngram")
        for step, anchor in enumerate(anchors, first)
    ]


def job(path: Path, plain: bool = True) -> Run:
    """A conversation of two turns and a question, done at midnight of the first day of 2026."""
    folder = RunFolder(path)
    folder.begin({"a": 1}, {"drafter": "ngram", "rule": "auto"}, {"started": "2026-01-01T00:00:00+00:00"})
    talk = [
        turn("Write.", " Once. ", stats(10, [3, 1, 2], 1.5), plain),
        turn("Again.", "Twice.", stats(20, [5], 0.75), plain),
    ]
    rows = [
        PromptRow(0, "81", "mt_bench", "writing", talk, 7, True, 0.1, [], 0.5, 0.1,
                  [*steps(0, 0, 10, [3, 1, 2]), *steps(0, 1, 20, [5], 3)]),
        PromptRow(1, "q-2", "rag", None, [turn("Find.", "Größe", stats(30, [1, 1], 2.0), plain)], 8, True, 0.1, [], 0.5,
                  0.1, steps(1, 0, 30, [1, 1])),
    ]  # fmt: skip
    folder.finish(rows, summarize(rows, **NO_FIGURES))
    return load_run(path)


def told(line: dict[str, Any]) -> dict[str, Any]:
    """Without the name of the answer, which means nothing."""
    return {name: value for name, value in line.items() if name != "answer_id"}


def test_a_run_is_written_as_spec_bench_writes_it(tmp_path: Path) -> None:
    lines = answers(job(tmp_path / "job"), "ngram")
    assert [told(line) for line in lines] == [
        {
            "question_id": 81, "category": "writing", "model_id": "ngram", "tstamp": 1767225600.0,
            "choices": [{"index": 0, "turns": ["Once.", "Twice."], "decoding_steps": [3, 1], "new_tokens": [6, 5],
                         "wall_time": [1.75, 1.0], "accept_lengths": [3, 1, 2, 5]}],
        },
        {
            "question_id": "q-2", "category": "rag", "model_id": "ngram", "tstamp": 1767225600.0,
            "choices": [{"index": 0, "turns": ["Größe"], "decoding_steps": [2], "new_tokens": [2],
                         "wall_time": [2.25], "accept_lengths": [1, 1]}],
        },
    ]  # fmt: skip
    assert len({line["answer_id"] for line in lines}) == 2


def test_the_plain_side_takes_a_step_a_token(tmp_path: Path) -> None:
    [first, _] = answers(job(tmp_path / "job"), "plain", plain=True)
    assert first["choices"] == [
        {"index": 0, "turns": ["Once.", "Twice."], "decoding_steps": [6, 5], "new_tokens": [6, 5],
         "wall_time": [4.25, 4.25], "accept_lengths": [1] * 11}
    ]  # fmt: skip


def test_the_command_writes_a_file_a_run_and_one_for_its_plain_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path / "study" / "paired")
    job(tmp_path / "study" / "alone", plain=False)
    monkeypatch.setattr(sys, "argv", ["specdec", "answers", str(tmp_path / "study"), f"output={tmp_path / 'out'}"])
    cli.main()
    names = ["alone.jsonl", "paired.jsonl", "paired-plain.jsonl"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    kept = [json.loads(line) for line in (tmp_path / "out" / names[1]).read_text(encoding="utf-8").splitlines()]
    assert [line["question_id"] for line in kept] == [81, "q-2"]
    assert len({line["answer_id"] for line in kept}) == 2


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = job(tmp_path / "study" / "job")
    RunFolder(tmp_path / "begun" / "job").begin({}, {}, {})
    with pytest.raises(ConfigError, match="No job of this study is done"):
        write_answers(load_runs(tmp_path / "begun"), tmp_path)
    older = [{name: value for name, value in row.items() if name != "turns"} for row in run.rows]
    with pytest.raises(ConfigError, match=r"kept no turns\. Run its study with rerun=true"):
        answers(replace(run, rows=older), "ngram")


def test_a_row_of_several_turns_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = job(tmp_path / "job")
    talk = run.rows[0]
    assert (talk["prompt"], talk["text"], talk["output_tokens"]) == ("Write.", " Once. \n\nTwice.", 11)
    assert talk["tau"] == pytest.approx(11 / 4)
    row = PromptRow(0, "81", "mt_bench", "writing", [turn("Write.", "Once.", stats(10, [3], 1.5), True)] * 2, 7, True,
                    0.1, [], 0.5, 0.1, steps(0, 1, 10, [3]))  # fmt: skip
    assert PromptRow.parse(row.line()) == row
    assert asdict(row)["turns"][1]["stats"]["output_tokens"] == 3


def test_the_view_of_tokens_parts_the_answers_of_a_conversation(tmp_path: Path) -> None:
    run = job(tmp_path / "job")
    told = [replace_texts(step, [f"{step['turn']}.{step['step']} "]) for step in run.steps]
    view = token_view(methods([replace(run, steps=told)]))
    assert "".join(step[0][0] for step in view["texts"][0][0]) == "0.0 0.1 0.2 \n\n1.3 "
    assert "".join(step[0][0] for step in view["texts"][0][1]) == "0.0 0.1 "


def replace_texts(step: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    return {**step, "texts": texts, "proposed": [False] * len(texts)}
