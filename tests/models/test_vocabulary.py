"""Two vocabularies agree if every token that both have has one id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from specdec.errors import UnsupportedModelError
from specdec.models.vocabulary import difference, tokens_of

QWEN = {"a": 0, "b": 1, "ab": 2, "<|end|>": 3}


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (QWEN, None),
        (QWEN | {"<|pad|>": 4}, None),  # a token of its own
        ({"a": 0, "b": 1, "ab": 2}, None),  # one that it lacks
        ({"a": 0, "b": 1, "ab": 2, "<|stop|>": 3}, None),  # another name for one that the target has alone
        ({"a": 1, "b": 0, "ab": 2, "<|end|>": 3}, "'a' is 0 in the target and 1 in the draft"),
        ({"a": 0, "b": 1, "ab": 2, "<|pad|>": 3, "<|end|>": 4}, "'<|end|>' is 3 in the target and 4 in the draft"),
        ({"ab": 5, "b": 6, "a": 0}, "'b' is 1 in the target and 6 in the draft"),  # the first by its id
        ({"x": 0, "y": 1}, "have no token in common"),
        ({}, "have no token in common"),
    ],
)
def test_what_two_vocabularies_disagree_on(draft: dict[str, int], reason: str | None) -> None:
    found = difference(QWEN, draft)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    "model",
    [
        models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]),
        models.WordLevel(vocab={"a": 0, "b": 1, "ab": 2}, unk_token="a"),
        models.WordPiece(vocab={"a": 0, "b": 1, "ab": 2}, unk_token="a"),
        models.Unigram(vocab=[("a", -1.0), ("b", -2.0), ("ab", -3.0)], unk_id=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_tokens_are_read_from_a_file_as_the_tokenizer_has_them(model: Any, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="<|end|>")
    tokenizer.add_tokens(["later"])
    tokenizer.save_pretrained(tmp_path)
    assert tokens_of(str(tmp_path)) == tokenizer.get_vocab() == QWEN | {"later": 4}


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    for vocab in ({"a": 0}, {"a": 0, "b": 1}):
        file.write_text(json.dumps({"model": {"vocab": vocab}}), encoding="utf-8")
        assert tokens_of(str(tmp_path)) == vocab


@pytest.mark.parametrize("path", [None, "owner/a-hub-id", "no/such/folder"])
def test_what_has_no_such_file_is_not_told(path: str | None) -> None:
    assert tokens_of(path) is None


@pytest.mark.parametrize("content", ["{}", '{"model": 3}', '{"model": {"vocab": "many"}}', '{"added_tokens": []}'])
def test_a_file_that_says_nothing_is_not_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    assert tokens_of(str(tmp_path)) is None


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json"):
        tokens_of(str(tmp_path))
