"""Jobs that have not begun, and jobs that somebody is at."""

from __future__ import annotations

import json
from pathlib import Path

from specdec.measure.folders import RunFolder
from specdec.measure.planned import load_study, note_planned
from tests.measure.studies import axes, environment

JOBS = [axes("ngram", "token", gamma) for gamma in (2, 3, 4)]


def begin(study: Path, number: int) -> RunFolder:
    folder = RunFolder(study / f"job-{number}")
    folder.begin({}, JOBS[number], environment())
    return folder


def test_a_job_is_planned_until_it_has_a_folder_and_runs_while_its_process_holds_it(tmp_path: Path) -> None:
    note_planned(tmp_path, [*JOBS, JOBS[2]])
    with RunFolder(tmp_path / "job-0").claimed():
        begin(tmp_path, 0)
        begin(tmp_path, 1)
        told = [(run.axes["num_draft_tokens"], run.status) for run in load_study(tmp_path)]
    assert told == [(2, "running"), (3, "unfinished"), (4, "planned")]
    assert [run.status for run in load_study(tmp_path)] == ["unfinished", "unfinished", "planned"]


def test_a_plan_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    begin(tmp_path, 0)
    note_planned(tmp_path, JOBS)
    [file] = (tmp_path / ".specdec").glob("*.json")
    for damage in ("[", "7", json.dumps(["x"])):
        file.write_text(damage, encoding="utf-8")
        assert [run.status for run in load_study(tmp_path)] == ["unfinished"]
