"""Two studies of the same jobs, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from specdec import cli
from specdec.report.changes import changes, together
from specdec.report.differences import contests
from tests.report.test_differences import CLOSE, FAST, SLOW, measured
from tests.report.test_report import folder_of_runs


def test_jobs_of_the_same_settings_are_compared_prompt_by_prompt() -> None:
    before = [measured("a", SLOW), measured("b", FAST), measured("gone", FAST)]
    after = [measured("a", FAST), measured("b", CLOSE), measured("new", FAST)]
    found = {one.name: one for one in changes(before, after)}
    assert set(found) == {"a", "b"}
    faster, same = found["a"].speedup, found["b"].speedup
    assert faster is not None
    assert same is not None
    assert faster.ratio == pytest.approx(stats.gmean(np.array(FAST) / np.array(SLOW)))
    assert faster.p == pytest.approx(2 * stats.ttest_rel(np.log(FAST), np.log(SLOW)).pvalue)
    assert same.p > 0.5
    assert found["a"].cells[:3] == ["a", "1.07", "2.10"]
    assert found["a"].cells[-2:] == ["9.00", "9.00"]


def test_a_speedup_above_tau_is_compared_with_nothing() -> None:
    [one] = changes([measured("a", SLOW)], [measured("a", FAST, tau=1.5)])
    assert one.cells[1:5] == ["1.07", "> τ: measuring error", "–", "–"]


def test_both_studies_stand_in_one_ranking() -> None:
    [contest] = contests(together([measured("a", SLOW)], [measured("a", FAST)], ("old", "new")))
    assert [one.name for one in contest.ranked] == ["a · study new", "a · study old"]


def test_the_command_takes_two_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = folder_of_runs(tmp_path / "before"), folder_of_runs(tmp_path / "after")
    monkeypatch.setattr(sys, "argv", ["specdec", "report", str(before), str(after)])
    cli.main()
    assert capsys.readouterr().out.strip() == str(after / "changes.html")
    page = (after / "changes.html").read_text(encoding="utf-8")
    assert "<h1>before → after</h1>" in page
    assert '<h2 id="changes-title">What changed</h2>' in page
    assert not (before / "index.html").exists()
