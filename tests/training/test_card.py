"""A card says what was counted, and whose words were used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specdec.training.card import card, licence
from specdec.training.settings import Settings

RECORD: dict[str, Any] = {
    "answer_tokens": 1234, "tokens": 5678, "step": 9, "elapsed": 5400.0, "coverage": 0.98765,
    "longest": 321,
    "learnt": {"passage": {"answers": 30, "tokens": 900}, "given": {"answers": 5, "tokens": 334}},
    "tried": {
        "given": {"answers": 3, "tokens": 70, "tau": 1.5, "accuracy": [0.25, 0.125], "survival": [0.25, 0.0]},
        "passage": {"answers": 4, "tokens": 80, "tau": 2.75, "accuracy": [0.625, 0.375], "survival": [0.625, 0.25]},
    },
    "curves": [{"step": 1, "tokens": 99, "held_out": {"tau": 1.5, "accuracy": [0.375, 0.25], "survival": [0, 0]}},
               {"step": 2, "tokens": 199,
                "held_out": {"tau": 2.345, "accuracy": [0.5, 0.25], "survival": [0.5, 0.125]}}, {}],
}  # fmt: skip


def test_a_card_has_the_figures_of_its_record(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Why?")
    settings = Settings("out", deny=("/home/someone/eval.grams",), command="specdec train out seed=3", seed=3,
                        prompts=(str(tmp_path / "mine.txt"),), target={"path": str(tmp_path)})  # fmt: skip
    text = card(settings, RECORD)
    for part in (f"# A head for {tmp_path.name}\n",
                 "| seed | 3 |", "| answers, tokens | 1234 |", "| hours, answers included | 1.50 |", "98.77%",
                 "specdec train out seed=3", "τ = 2.345", "| 2 | 0.250 | 0.125 |", "eval.grams",
                 "PSF-2.0", "| given | files that were given | 5 | 334 |", "Given: mine.txt. Their licence is not",
                 "| prompts | answers | τ | hits at 1 | hits at 2 |", "| passage | 4 | 2.750 | 0.625 | 0.375 |",
                 "kind “given”: τ = 1.500, of 3 held out, where “passage” has 2.750",
                 "| 1 | 99 | 0.375 | 1.500 |\n| 2 | 199 | 0.500 | 2.345 |", "longer than 321 tokens"):  # fmt: skip
        assert part in text
    assert "/home/someone" not in text
    assert str(tmp_path) not in text


def test_a_card_of_one_kind_of_prompts_names_no_worst_and_claims_no_passages() -> None:
    old = {"unknown": RECORD["tried"]["given"]}
    text = card(Settings("out"), RECORD | {"learnt": {"unknown": {"answers": 1, "tokens": 2}}, "tried": old})
    assert "of the kind" not in text
    assert "PSF-2.0" not in text


@pytest.mark.parametrize(("package", "word"), [("numpy", "BSD"), ("nothing_like_it", "not installed")])
def test_licences_are_what_packages_state(package: str, word: str) -> None:
    assert word in licence(package)
