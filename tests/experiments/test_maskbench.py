"""MaskBench: files made here, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.maskbench import Study, judge, report
from specdec.errors import ConfigError
from tests.toytokenizers import byte_level

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")

SIZE = {"properties": {"size": {"type": "integer"}, "unit": {"enum": ["cm"]}}, "required": ["size", "unit"]}


def case(schema: dict[str, Any], **texts: Any) -> dict[str, Any]:
    tests = [{"valid": not name.startswith("bad"), "data": data} for name, data in texts.items()]
    return {"schema": schema, "tests": tests}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cases = [
        case(SIZE, good={"size": 3, "unit": "cm"}, turned={"unit": "cm", "size": 3}, bad={"size": "3", "unit": "cm"}),
        case({"type": "string", "maxLength": 3}, good="abc", bad="abcd"),
        case({"not": {"type": "string"}}, good=3),
        case({"not": {"type": "null"}}, good=3),
    ]
    for number, one in enumerate(cases):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    return tmp_path


def test_every_schema_and_text_is_counted_once(folder: Path) -> None:
    tokenizer = byte_level()
    found = judge(Study(folder).files, tokenizer, len(tokenizer), tokenizer.eos_token_id)
    assert (found.followed, sum(found.refused.values())) == (2, 2)
    assert list(found.refused) == ['Unimplemented keys: ["not"]']
    assert found.texts == {(True, True): 2, (True, False): 1, (False, False): 2}
    texts = [json.dumps(each) for each in ({"size": 3, "unit": "cm"}, "abc")]
    tokens = [len(tokenizer.encode(each)) + 1 for each in texts]
    assert found.tokens == sum(tokens)
    for counts in found.forced.values():
        assert counts["kept"] <= counts["drafted"]
        assert counts["kept"] + counts["passes"] >= found.tokens
    page = report(found)
    assert "Of 4 schemas 2 are followed (50.0%)" in page
    assert "| valid | 3 | 2 | 1 |" in page
    assert "| not valid | 2 | 0 | 2 |" in page


def test_a_text_that_is_forbidden_and_can_be_written_is_counted(folder: Path) -> None:
    (folder / "1.json").write_text(json.dumps(case({"type": "string"}, bad="abc")))
    tokenizer = byte_level()
    assert judge(Study(folder).files, tokenizer, len(tokenizer), tokenizer.eos_token_id).texts[False, True] == 1


def test_a_file_that_was_cut_off_is_named(folder: Path) -> None:
    (folder / "1.json").write_text('{"schema": ')
    with pytest.raises(ConfigError, match=r"1\.json is not JSON: .* Copy it anew"):
        judge(Study(folder).files, byte_level(), len(byte_level()), byte_level().eos_token_id)


def test_files_are_chosen_evenly(folder: Path, tmp_path: Path) -> None:
    assert [path.stem for path in Study(folder, limit=2).files] == ["0", "2"]
    assert len(Study(folder, limit=9).files) == 4
    with pytest.raises(ConfigError, match=r"has no JSON files\. Give maskbench/data"):
        assert Study(tmp_path / "none").files
