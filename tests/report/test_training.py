"""The page of a training run has its curves and counts, and needs no scripts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from specdec import cli
from specdec.errors import ConfigError
from specdec.report.training import charts, write_curves

POINTS = [
    {"step": 1, "tokens": 100, "loss": 2.5, "accuracy": [0.1, 0.05], "acceptance": [0.2, 0.1]},
    {"step": 2, "tokens": 200, "loss": 1.5, "accuracy": [0.4, 0.3], "acceptance": [0.5, 0.4],
     "held_out": {"tau": 1.75, "accuracy": [0.5, 0.4], "survival": [0.5, 0.25]}},
]  # fmt: skip
RECORD = {"curves": POINTS, "answer_tokens": 1234567, "tokens": 200, "step": 2, "best": 1.75, "coverage": 0.96,
          "elapsed": 12.0}  # fmt: skip


def test_every_figure_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a <head>"
    folder.mkdir()
    tried = {"second turn": {"answers": 3, "tau": 1.5, "accuracy": [0.5, 0.25]}}
    (folder / "training.json").write_text(json.dumps(RECORD | {"tried": tried}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["specdec", "report", str(folder)])
    cli.main()
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "1,234,567" in page
    assert "<h1>a &lt;head&gt;</h1>" in page
    assert "<script" not in page
    assert "<td>second turn</td><td>3</td><td>1.500</td><td>0.500 0.250</td>" in page


def test_a_run_that_did_not_tell_kinds_of_prompts_has_no_table_of_them(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps(RECORD | {"curves": []}), encoding="utf-8")
    assert "kind of prompt" not in write_curves(tmp_path, tmp_path / "x.html", "x").read_text(encoding="utf-8")


def test_charts_hold_the_points() -> None:
    made = charts(POINTS)
    shares = made["Hits by position, behind the true text"]["data"]["values"]
    assert {"tokens": 200, "share": 0.3, "position": 2} in shares
    assert len(shares) == 4
    assert made["Simulated τ on held-out answers"]["data"]["values"] == [{"tokens": 200, "τ": 1.75}]
    assert "Simulated τ on held-out answers" not in charts(POINTS[:1])


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged"):
        write_curves(tmp_path, tmp_path / "x.html", "x")
