"""Prompt files: what is read, and which line is to blame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specdec import ConfigError
from specdec.prompts import PromptRecord, load_prompts

GOOD = '{"question_id": 1, "category": "qa", "prompt": "Why?"}'


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_prompts_that_ship_with_specdec() -> None:
    records = load_prompts()
    assert [record.question_id for record in records] == ["demo-1", "demo-2", "demo-3", "demo-4"]
    assert all(record.category and record.prompt for record in records)
    assert load_prompts(limit=2) == records[:2]


def test_blank_lines_and_other_fields_are_passed_over(tmp_path: Path) -> None:
    extra = '{"question_id": "b", "category": "chat", "prompt": "Größe €?", "reference": [1]}'
    path = written(tmp_path, "", GOOD, "   ", extra, "")
    want = [PromptRecord("1", "qa", "Why?"), PromptRecord("b", "chat", "Größe €?")]
    assert load_prompts(path) == load_prompts(str(path)) == want
    assert load_prompts(path, limit=1) == want[:1]
    assert load_prompts(path, limit=9) == want


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{not json", "is not JSON"),
        ('{"question_id": 2, "category": "qa"}', "prompt"),
        ('{"category": "qa", "prompt": "x"}', "question_id"),
        ("[1, 2]", "no question_id"),
        ("null", "no question_id"),
        ('"text"', "no question_id"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_by_file_and_number(tmp_path: Path, line: str, cause: str) -> None:
    path = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(ConfigError, match=r"Expected question_id|Give one object a line") as caught:
        load_prompts(path)
    assert f"{path}, line 3" in str(caught.value)
    assert cause in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ConfigError, match="There is no prompt file at") as caught:
            load_prompts(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_a_file_without_prompts_is_refused(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"No prompts in .*prompts\.jsonl"):
        load_prompts(written(tmp_path, *lines))


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\u2029"])
def test_separators_that_json_allows_in_a_string_do_not_end_the_line(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}two"
    row = json.dumps({"question_id": 1, "category": "qa", "prompt": text}, ensure_ascii=False)
    assert [record.prompt for record in load_prompts(written(tmp_path, row))] == [text]


WRONG = [("prompt", value) for value in (None, 5, 1.5, True, ["a"], {"a": 1}, "", "\ud800")] + [
    (name, value) for name in ("question_id", "category") for value in (None, 1.5, False, [1], {}, "")
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=repr)
def test_a_field_of_another_type_is_never_turned_into_text(tmp_path: Path, field: str, value: object) -> None:
    bad = json.dumps({"question_id": 2, "category": "qa", "prompt": "x", field: value})
    with pytest.raises(ConfigError, match=rf"line 2: {field} = .* cannot work\. Give a non-empty text"):
        load_prompts(written(tmp_path, GOOD, bad))


def test_two_prompts_of_one_id_are_refused(tmp_path: Path) -> None:
    other = json.dumps({"question_id": "1", "category": "qa", "prompt": "x"})
    with pytest.raises(ConfigError, match=r"line 3: line 1 has the same question_id"):
        load_prompts(written(tmp_path, GOOD, "", other))


def test_marks_and_line_ends_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n")
    assert load_prompts(path) == [PromptRecord("1", "qa", "Why?")]


def test_a_file_that_is_no_text_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + '{"prompt": "ö"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 2, cannot be read: .*in UTF-8"):
        load_prompts(path)


@pytest.mark.parametrize("number", [-(2**63), -126, 0, 126, 2**63 - 1])
def test_an_id_may_be_an_integer_of_64_bits(tmp_path: Path, number: int) -> None:
    row = {"question_id": number, "category": number, "prompt": "x"}
    assert load_prompts(written(tmp_path, json.dumps(row))) == [PromptRecord(str(number), str(number), "x")]


@pytest.mark.parametrize("number", [-(2**63) - 1, 2**63, 10**400])
def test_and_no_larger_one(tmp_path: Path, number: int) -> None:
    with pytest.raises(ConfigError, match=r"line 1: question_id = .* an integer of 64 bits"):
        load_prompts(written(tmp_path, json.dumps({"question_id": number, "category": "qa", "prompt": "x"})))
