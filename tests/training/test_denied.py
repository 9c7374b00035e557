"""What a head may not learn from is found, whatever its case and punctuation, and travels as hashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specdec.errors import ConfigError
from specdec.training.denied import Denied

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
DENIED = [LONG, "Tell me of a town that has no sea", "math"]


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        (LONG, True),
        ("Zero, " + LONG.upper().replace(" ", ", "), True),  # case and punctuation are nothing
        ("one two three four five six seven eight nine ten eleven twelve THIRTEEN!", True),
        ("one two three four five six seven eight nine ten eleven twelve and thirteen", False),
        ("tell me of a town that has no sea, please", True),  # a short denied text within another
        ("tell me of a town", False),
        ("math", False),
        ("", False),
    ],
)
def test_a_text_that_shares_a_run_of_words_is_denied(text: str, denied: bool, tmp_path: Path) -> None:
    found = Denied(DENIED)
    assert found.holds(text) == denied
    found.save(tmp_path / "eval.grams")
    assert Denied.read([tmp_path / "eval.grams"]).holds(text) == denied
    assert b"fourteen" not in (tmp_path / "eval.grams").read_bytes()


def test_texts_of_every_column_and_several_files_count(tmp_path: Path) -> None:
    rows = [{"turns": [LONG, "x"], "more": {"reference": " ".join(LONG.split()[::-1])}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Denied(DENIED[1:2]).save(tmp_path / "b.grams")
    found = Denied.read([tmp_path / "a.jsonl", tmp_path / "b.grams"])
    assert all(map(found.holds, [LONG, " ".join(LONG.split()[::-1]), DENIED[1]]))


def test_a_damaged_file_of_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.grams").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"a\.grams is not a file of hashes"):
        Denied.read([tmp_path / "a.grams"])
