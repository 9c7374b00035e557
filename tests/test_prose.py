"""The check of the prose finds what it is for, and nothing in a plain text."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.pages import ROOT


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", ROOT / ".ci" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("# A law unto itself upon us\n\nThe cat sat. It `utilize`d a mat.\n\n```sh\nin order to\n```\n", []),
        ("One.\n\nWe utilize it.\n", ["3: 'utilize': write 'use'"]),
        ("It is the the end.\n", ["1: 'the' stands there twice"]),
        ("| for nothing |\n\n" + "a b " * 18 + "end.\n", ["3: a sentence of 37 words: " + "a b " * 15 + "…"]),
        ("- " + "one two " * 15 + "end.\n- " + "one two " * 15 + "end.\n", []),
        ("one two " * 15 + "end; " + "one two " * 15 + "end.\n", []),
    ],
    ids=["plain", "stiff", "twice", "long", "two items", "semicolon"],
)
def test_what_is_found(prose: ModuleType, page: str, found: list[str]) -> None:
    assert list(prose.complaints(page)) == found


def test_reading_ease_is_flesch_by_hand(prose: ModuleType) -> None:
    """Six words, two sentences, six syllables: 206.835 - 1.015 · 3 - 84.6 · 1."""
    count, per_sentence, ease = prose.figures("The cat sat. The dog ran.\n")
    assert (count, per_sentence) == (6, 3.0)
    assert ease == pytest.approx(119.19)
