"""Prompts of the user's own: what is read, what is refused, and how they are mixed with the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specdec.errors import ConfigError
from specdec.training.denied import Denied
from specdec.training.given import check_given, given
from specdec.training.losses import LossConfig
from specdec.training.prompts import Mix, Prompter, Template
from specdec.training.settings import Settings
from tests.training.chats import END, tokenizer
from tests.training.test_corpus import Parrot

ROWS: list[dict[str, Any]] = [
    {"question_id": 1, "category": "c", "prompt": "What is a tide?"},
    {"turns": ["Name a bird.", "Another one."]},
    {"messages": [{"role": "user", "content": "Say hello."}]},
    {"instruction": "What is a tide?"},
]


def test_rows_of_every_layout_and_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    (tmp_path / "b.txt").write_text("Grüße?\n\n  Name a bird. \n", encoding="utf-8")
    found = given([str(tmp_path / name) for name in ("a.jsonl", "b.txt")])
    assert found == ["What is a tide?", "Name a bird.", "Say hello.", "Grüße?"]  # what is there twice is one prompt


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": 5}\n', r"a\.jsonl, line 3: prompt = 5 is no text"),
        ("a.jsonl", '{"prompt": "x"}\n{"said": "y"}\n', r"a\.jsonl, line 2: No column"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', r"a\.jsonl, line 2, is not JSON"),
        ("a.jsonl", "", "holds no prompts"),
        ("a.txt", "\n \n", "holds no prompts"),
        ("a.txt", b"fine\n\xff\n", r"a\.txt, line 2, cannot be read"),
        ("b.txt", None, r"no prompt file at .*b\.txt.*Give one with prompts=…"),
    ],
)
def test_what_is_no_prompt_is_refused_by_file_and_line(
    name: str, text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        check_given([str(tmp_path / name)])


def test_a_set_of_the_hub_is_asked_for_by_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(**words: Any) -> list[dict[str, Any]]:
        asked.append(words)
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    check_given(["hub:me/set"])
    assert asked == []
    assert given(["hub:me/set", "hub:me/other:train[:9]"]) == ["What is a tide?", "Name a bird.", "Say hello."]
    assert asked == [{"path": "me/set", "split": "train"}, {"path": "me/other", "split": "train[:9]"}]


def prompter(own: list[str], denied: Denied | None = None, **mix: Any) -> Prompter:
    sizes = {"tasks": 0.25, "passages": 0, "second_turns": 0, "given": 0.5, "turn_tokens": 40} | mix
    return Prompter(Template(tokenizer()), Parrot(), Mix(**sizes), denied or Denied(), frozenset([END]), 5, own)


def asked(made: Prompter, chunks: int, size: int = 8) -> list[list[str]]:
    """The given prompts of each chunk."""
    found = [made.prompts(size, chunk, []) for chunk in range(chunks)]
    assert all(len(chunk) <= size for chunk in found)
    return [[one.turns[0] for one in chunk if one.source == "given"] for chunk in found]


def test_each_is_asked_once_at_its_share_and_then_the_target_makes_up_the_rest() -> None:
    own = [f"What is the number {number}?" for number in range(10)]
    chunks = asked(prompter(own), 4)
    assert list(map(len, chunks)) == [4, 4, 2, 0]
    assert sorted(words for chunk in chunks for words in chunk) == sorted(own)
    sources = [one.source for one in prompter(own).prompts(8, 3, [])]
    assert sources.count("self-prompted") == 6


def test_a_chunk_follows_from_its_number() -> None:
    own = [f"What is the number {number}?" for number in range(10)]
    again = prompter(own).prompts(8, 1, [])
    assert [one.turns[0] for one in again if one.source == "given"] == asked(prompter(own), 2)[1]


def test_others_leave_room_or_none_is_taken() -> None:
    own = [f"What is the number {number}?" for number in range(10)]
    assert list(map(len, asked(prompter(own, tasks=0.75, given=1.0), 2))) == [2, 2]
    assert asked(prompter(own, tasks=1.0), 1) == [[]]


def test_nothing_denied_is_asked() -> None:
    own = ["What is the number of the house beside the old harbour of the town?", "What is a tide?"]
    assert asked(prompter(own, Denied(own[:1])), 1) == [["What is a tide?"]]


def test_answers_depend_on_what_the_files_hold_and_not_where_they_are(tmp_path: Path) -> None:
    def told(text: str, folder: str) -> dict[str, Any]:
        path = tmp_path / folder / "a.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return Settings("out", prompts=(str(path),)).of_texts

    assert told("one", "x") == told("one", "y")
    assert told("one", "x") != told("two", "y")
    without = Settings("out").of_texts
    assert "prompts" not in without  # folders of answers that were made before there were such files go on
    assert "given" not in without["mix"]
    assert "rows" not in Settings("out").of_head["loss"]
    assert Settings("out", loss=LossConfig(rows=2)).of_head["loss"]["rows"] == 2
