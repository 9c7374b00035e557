"""Prompts become token ids; what is probably not meant is warned of once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from specdec import Chat, InvalidRequestError
from specdec.prompts.encoding import PromptEncoder
from specdec.prompts.entry import split
from tests.prompts.scenes import CHATML, MISTRAL, tokenizer

USER = {"role": "user", "content": "Hi"}


def test_texts_get_the_tokenizers_special_tokens_and_chats_those_of_the_template() -> None:
    one = tokenizer(MISTRAL, adds_bos=True)
    encode = PromptEncoder(one).encode
    text = one.apply_chat_template([USER], tokenize=False)
    assert text == "<s>[INST] Hi [/INST]"
    assert encode("Hi") == [0, *one.encode("Hi", add_special_tokens=False)]
    assert encode([USER]) == one.encode(text, add_special_tokens=False)
    assert encode(Chat([USER])) == encode([USER])
    assert encode([USER])[:2] != [0, 0]
    assert encode([5, 6]) == [5, 6]


def test_what_a_tokenizer_returns_is_read_without_padding() -> None:
    one = tokenizer()
    for side in ("left", "right"):
        one.padding_side = side
        for tensors in (None, "np", "pt"):
            batch = one(["Hello", "Hi"], padding=True, return_tensors=tensors)
            assert np.shape(batch["input_ids"]) == (2, 5)
            assert [PromptEncoder(one).encode(row) for row in split(batch)] == [one.encode("Hello"), one.encode("Hi")]
    assert PromptEncoder(one).encode(one("Hi")) == one.encode("Hi")


def warnings_of(encode: Any, *prompts: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for prompt in prompts:
            encode(prompt)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("adds_bos", "prompts", "doubled"),
    [
        (True, ["<s>Hi"], True),
        (True, ["<s>Hi", "<s>Ho"], True),
        (True, ["Hi", "a<s><s>", [0, 1], []], False),
        (False, ["<s>Hi"], False),
        (False, ["<s><s>Hi"], True),
        (True, [[0, 0, 5]], True),
        (True, [[USER]], False),
        (True, [Chat([USER], template="<s><s>{{ messages[0].content }}")], True),
    ],
)
def test_a_doubled_bos_is_warned_of_once(adds_bos: bool, prompts: list[Any], doubled: bool) -> None:
    encode = PromptEncoder(tokenizer(MISTRAL, adds_bos)).encode
    told = warnings_of(encode, *prompts)
    assert len(told) == doubled
    assert all("begins with the token 0 (BOS) twice" in message for message in told)
    assert warnings_of(encode, *prompts) == []


def test_a_tokenizer_without_bos_warns_of_none() -> None:
    one = tokenizer(CHATML)
    one.bos_token = None
    assert warnings_of(PromptEncoder(one).encode, [0, 0, 5]) == []


@pytest.mark.parametrize(("prompt", "padded"), [([2, 5], True), ([5, 2], True), ([5, 2, 5], False), ([0, 5], False)])
def test_padding_that_no_mask_names_is_warned_of_once(prompt: list[int], padded: bool) -> None:
    encode = PromptEncoder(tokenizer()).encode
    told = warnings_of(encode, prompt, prompt)
    assert len(told) == padded
    assert all("begins or ends with the token 2 (padding)" in message for message in told)


def test_a_pad_token_that_also_ends_texts_is_none() -> None:
    one = tokenizer()
    one.pad_token = one.eos_token
    assert warnings_of(PromptEncoder(one).encode, [1, 5]) == []


def test_without_a_tokenizer_token_ids_alone_are_read() -> None:
    encode = PromptEncoder(None).encode
    assert encode([1, 2]) == [1, 2]
    for prompt in ("Hi", [USER]):
        with pytest.raises(
            InvalidRequestError, match=r"This model has no tokenizer, so it cannot read .* Give token ids"
        ):
            encode(prompt)


def test_a_tokenizer_that_fails_is_that_prompts_error() -> None:
    class Broken:
        chat_template = CHATML

        def encode(self, text: str, **options: Any) -> list[int]:
            raise OverflowError("too long")

    for prompt in ("Hi", [USER]):
        with pytest.raises(
            InvalidRequestError, match=r"Cannot encode .*Hi.*: too long. Give token ids, or another text."
        ):
            PromptEncoder(Broken()).encode(prompt)
