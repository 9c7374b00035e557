"""Figures and tables for papers: what is in the files, and what is refused."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from specdec import cli
from specdec.errors import ConfigError
from specdec.report import tables
from specdec.report.files import figure_names, write_figure
from tests.measure.studies import study
from tests.report.test_differences import CLOSE, FAST, SLOW, measured
from tests.report.test_report import folder_of_runs


def test_a_figure_stands_alone_in_every_format(tmp_path: Path) -> None:
    for ending, begins in ((".pdf", b"%PDF-"), (".png", b"\x89PNG"), (".svg", b"<svg")):
        write_figure(study(), "positions", tmp_path / f"fig{ending}", None, 480)
        assert (tmp_path / f"fig{ending}").read_bytes().startswith(begins)
    drawn = (tmp_path / "fig.svg").read_text(encoding="utf-8")
    assert "var(" not in drawn  # no style sheet is there to resolve it
    assert drawn.count("ngram · gumbel · γ 5</text>") == 1  # in the legend
    assert "none · gumbel · γ none</text>" not in drawn  # it is not in the chart
    assert "#c84e00" in drawn


def test_the_figure_of_speedups_names_its_methods_and_holds_no_other(tmp_path: Path) -> None:
    write_figure(study(), "speedup", tmp_path / "fig.svg", None, 480)
    drawn = (tmp_path / "fig.svg").read_text(encoding="utf-8")
    assert drawn.count("ngram · gumbel · γ 3</text>") == 1
    assert "model · block" not in drawn  # above τ


def test_a_figure_of_a_kind_names_it_on_its_axis(tmp_path: Path) -> None:
    for kind, title in ((None, "Speedup"), ("tau", "τ"), ("alpha", "α")):
        write_figure(study(), "over-num-draft-tokens", tmp_path / "over.svg", kind, 480)
        assert f">{title}</text>" in (tmp_path / "over.svg").read_text(encoding="utf-8")


def test_the_data_of_a_figure_by_hand(tmp_path: Path) -> None:
    write_figure(study(), "positions", tmp_path / "fig.csv", "cumulative", 480)
    with (tmp_path / "fig.csv").open(encoding="utf-8") as file:
        first, *_ = rows = list(csv.DictReader(file))
    assert first == {
        "run": "ngram-3", "method": "ngram · gumbel · γ 3", "drafter": "ngram", "rule": "gumbel",
        "num_draft_tokens": "3", "kind": "cumulative", "position": "1", "share": "0.8",
    }  # fmt: skip
    assert {row["kind"] for row in rows} == {"cumulative"}
    assert len(rows) == 3 + 5 + 4 + 4


def test_the_table_for_latex_by_hand() -> None:
    runs = [measured("my_drafter", FAST), measured("close", CLOSE), measured("slow", SLOW), measured("odd", [9.5])]
    assert tables.latex(tables.blocks(runs)).splitlines() == [
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        r"Method & Speedup & Group & $\tau$ & $\alpha$ & Drafting & Tokens/s \\",
        r"\midrule",
        r"my\_drafter & 2.10 (2.00--2.23) & a & 9.00 & 0.50 & 5.0\% & 42.0 \\",
        r"close & 2.08 (1.98--2.21) & a & 9.00 & 0.50 & 5.0\% & 41.6 \\",
        r"slow & 1.07 (0.97--1.20) & b & 9.00 & 0.50 & 5.0\% & 21.4 \\",
        r"odd & $>$ $\tau$: measuring error & -- & 9.00 & 0.50 & 5.0\% & 190.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_conditions_part_the_table() -> None:
    found = tables.blocks([measured("fast", FAST), measured("fast", FAST, temperature=1.0)])
    assert r"\multicolumn{7}{l}{\emph{temperature 1.0}} \\" in tables.latex(found)
    assert tables.markdown(found).count("| Method |") == 2
    assert [line.split(",")[0] for line in tables.as_csv(found).splitlines()] == [
        "Condition", "temperature 0.0", "temperature 1.0"
    ]  # fmt: skip


def test_a_figure_or_a_kind_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert figure_names(study())[:3] == ["speedup", "over-num-draft-tokens", "positions"]
    with pytest.raises(ConfigError, match="not one of this study's: speedup, over-num-draft-tokens, positions"):
        write_figure(study(), "speed", tmp_path / "x.pdf", None, 480)
    with pytest.raises(ConfigError, match=r"Its kinds: conditional, cumulative\."):
        write_figure(study(), "positions", tmp_path / "x.pdf", "x", 480)


def test_the_commands_write_and_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(folder_of_runs(tmp_path / "runs"))

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["specdec", *words])
        try:
            cli.main()
        except SystemExit:
            return capsys.readouterr().err.strip()
        return capsys.readouterr().out.strip()

    monkeypatch.chdir(tmp_path)
    assert said("plot", runs) == "speedup.pdf"
    assert (tmp_path / "speedup.pdf").read_bytes().startswith(b"%PDF-")
    assert "ends in .pdf, .svg, .png, .csv." in said("plot", runs, "output=fig.jpg")
    assert said("table", runs, "format=latex", "output=t.tex") == "t.tex"
    assert r"\toprule" in (tmp_path / "t.tex").read_text(encoding="utf-8")
