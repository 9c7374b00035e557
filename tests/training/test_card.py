"""A card says what was counted, and whose words were used."""

from __future__ import annotations

import pytest

from specdec.training.card import card, licence
from specdec.training.settings import Settings

RECORD = {
    "answer_tokens": 1234, "tokens": 5678, "step": 9, "elapsed": 5400.0, "coverage": 0.98765,
    "curves": [{"held_out": {"tau": 2.345, "accuracy": [0.5, 0.25], "survival": [0.5, 0.125]}}, {}],
}  # fmt: skip


def test_a_card_has_the_figures_of_its_record() -> None:
    settings = Settings("out", deny=("/home/someone/eval.grams",), command="specdec train out seed=3", seed=3)
    text = card(settings, RECORD)
    for part in ("| seed | 3 |", "| answers, tokens | 1234 |", "| hours, answers included | 1.50 |", "98.77%",
                 "specdec train out seed=3", "τ = 2.345", "| 2 | 0.250 | 0.125 |", "eval.grams",
                 "PSF-2.0"):  # fmt: skip
        assert part in text
    assert "/home/someone" not in text


@pytest.mark.parametrize(("package", "word"), [("numpy", "BSD"), ("nothing_like_it", "not installed")])
def test_licences_are_what_packages_state(package: str, word: str) -> None:
    assert word in licence(package)
