"""The prediction study: its words, its tables, and that it says what it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments import predict
from experiments._words import parsed
from specdec.errors import ConfigError


def test_it_writes_a_page_and_a_plot_that_say_that_they_are_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"markdown={tmp_path / 'p.md'}", f"plot={tmp_path / 'p.svg'}", "device=A100", "draft=Llama-3.2-1B"]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    predict.main()
    page = (tmp_path / "p.md").read_text(encoding="utf-8")
    assert page.startswith("# Predictions")
    assert "Nothing here was measured" in page
    assert "does not fit" in page
    assert "p.svg" in page
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert page[:40] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("device=Z80", "Valid names: A100"),
        ("model=GPT", "Llama-3.1-8B"),
        ("draft=GPT", "or null"),
        ("speed=3", "gamma"),
    ],
)
def test_unknown_words_are_refused_with_the_valid_ones(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict.Study(**parsed([word], predict.WORDS))


def test_null_means_none() -> None:
    assert predict.Study(**parsed(["draft=null", "gamma=7"], predict.WORDS)) == predict.Study(gamma=7)
