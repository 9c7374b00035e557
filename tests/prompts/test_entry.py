"""What a prompt may be, and what it may not. The expectations are written by hand."""

from __future__ import annotations

import array
import enum
from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from specdec import Chat, InvalidRequestError
from specdec.prompts.entry import read, split, token_ids, words

MESSAGE = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


@dataclass
class Record:
    role: str
    content: str


class Model:
    """As pydantic's models are."""

    def model_dump(self) -> dict[str, Any]:
        return {"role": "user", "content": "Hi", "tool_calls": None}


class Words(str, enum.Enum):
    HI = "Hi"


class Index:
    def __index__(self) -> int:
        return 7


def seen(prompts: Any) -> list[Any]:
    """Every prompt as it is read; a chat as its messages, an error as its type."""
    told: list[Any] = []
    for prompt in split(prompts):
        try:
            given = read(prompt)
        except InvalidRequestError:
            told.append(InvalidRequestError)
        else:
            told.append(list(given.messages) if isinstance(given, Chat) else given)
    return told


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("Hi", ["Hi"]),
        ("", [""]),
        (Words.HI, ["Hi"]),
        (np.str_("Hi"), ["Hi"]),
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ((1, 2), [[1, 2]]),
        (range(3), [[0, 1, 2]]),
        (deque([1, 2]), [[1, 2]]),
        (array.array("i", [1, 2]), [[1, 2]]),
        ([np.int64(1), np.uint8(2)], [[1, 2]]),
        ([Index(), 1], [[7, 1]]),
        ([torch.tensor(1), torch.tensor(2)], [[1, 2]]),
        (np.array([1, 2], dtype=np.uint16), [[1, 2]]),
        (torch.tensor([1, 2], dtype=torch.int32), [[1, 2]]),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([[1, 2]]), [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([np.array([1, 2]), torch.tensor([3]), (4,), range(2)], [[1, 2], [3], [4], [0, 1]]),
        ([-1, 10**30], [[-1, 10**30]]),
        ([], []),
        ((), []),
        (np.array([], dtype=int), []),
        ([[]], [[]]),
        ([[], "a"], [[], "a"]),
        ([MESSAGE], [[MESSAGE]]),
        ((MESSAGE, ANSWER), [[MESSAGE, ANSWER]]),
        ([[MESSAGE], [MESSAGE, ANSWER]], [[MESSAGE], [MESSAGE, ANSWER]]),
        ([OrderedDict(MESSAGE), UserDict(ANSWER)], [[MESSAGE, ANSWER]]),
        ([Record("user", "Hi"), Model()], [[MESSAGE, MESSAGE]]),
        (Chat([MESSAGE]), [[MESSAGE]]),
        ([Chat([MESSAGE]), Chat([ANSWER])], [[MESSAGE], [ANSWER]]),
        (["a", [1, 2], [MESSAGE], Chat([ANSWER]), {"input_ids": [3]}], ["a", [1, 2], [MESSAGE], [ANSWER], [3]]),
        ({"input_ids": [1, 2]}, [[1, 2]]),
        ({"input_ids": []}, [[]]),
        (BatchEncoding({"input_ids": [1, 2], "attention_mask": [1, 1]}), [[1, 2]]),
        (BatchEncoding({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]}), [[1, 2], [3]]),
        (BatchEncoding({"input_ids": torch.tensor([[0, 1], [3, 4]]), "attention_mask": torch.tensor([[0, 1], [1, 1]])}),
         [[1], [3, 4]]),
        ({"input_ids": np.array([[5, 6, 0]]), "attention_mask": np.array([[1, 1, 0]])}, [[5, 6]]),
        ({"input_ids": [5, 6], "attention_mask": torch.tensor([True, False])}, [[5]]),
        ({"input_ids": [5, 6], "attention_mask": [0, 0]}, [[]]),
        ([{"input_ids": [1]}, {"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.tensor([[1, 1]])}],
         [[1], [2, 3]]),
        ({"input_ids": [1], "token_type_ids": [0]}, [[1]]),
        ({"prompt": "Hi"}, ["Hi"]),
        ({"prompt_token_ids": (1, 2)}, [[1, 2]]),
        ([{"prompt": "Hi"}, {"prompt_token_ids": np.array([1])}], ["Hi", [1]]),
    ],
)  # fmt: skip
def test_what_is_a_prompt_is_read(prompts: Any, expected: list[Any]) -> None:
    told = seen(prompts)
    assert told == expected
    assert {type(prompt) for prompt in told} <= {str, list}
    tokens = [item for prompt in told if isinstance(prompt, list) for item in prompt]
    assert {type(item) for item in tokens} <= {int, dict}  # not numpy's, nor torch's


BAD: list[tuple[Any, str]] = [
    (None, "None is not a prompt. Give a text"),
    (b"Hi", r"b'Hi' \(bytes\) is not a prompt"),
    (bytearray(b"Hi"), r"\(bytearray\) is not a prompt"),
    (memoryview(b"Hi"), r"\(memoryview\) is not a prompt"),
    (5, "5 is not a prompt"),
    (1.5, "1.5 is not a prompt"),
    (True, "True is not a prompt"),
    (np.int64(5), r"\(int64\) is not a prompt"),
    (torch.tensor(5), r"\(Tensor\) is not a prompt"),
    (Path("a.txt"), r"PosixPath\('a.txt'\) \(PosixPath\) is not a prompt"),
    ({1, 2}, r"\(set\) is not a prompt"),
    (frozenset([1]), r"\(frozenset\) is not a prompt"),
    ((token for token in [1, 2]), r"\(generator\) is not a prompt"),
    (iter([1, 2]), r"\(list_iterator\) is not a prompt"),
    ({1: 2}.keys(), r"\(dict_keys\) is not a prompt"),
    (torch.empty(2, device="meta", dtype=torch.int64), r"\(Tensor\) is not a prompt"),
    (np.ndarray, r"\(type\) is not a prompt"),
    (open, r"\(builtin_function_or_method\) is not a prompt"),
    (object(), r"\(object\) is not a prompt"),
    ("a\ud800b", r"The text 'a\\ud800b' holds half of a surrogate pair at 1"),
    ([1, 2.0], "Token id 1 is 2.0. Give integers"),
    ([True, False], "Token id 0 is True. Give integers"),
    ([1, np.bool_(True)], r"Token id 1 is np.True_ \(bool"),
    ([1, None], "Item 1 of the prompt is None, which is not a token id. Give"),
    ([1, float("nan")], "Token id 1 is nan"),
    ([1, 2j], r"Token id 1 is 2j \(complex\)"),
    ([1, Path("a")], "Item 1 of the prompt is PosixPath"),
    (np.array([1.0, 2.0]), "Token id 0 is 1.0"),
    (np.array([True]), "Token id 0 is True"),
    (torch.tensor([1.5]), "Token id 0 is 1.5"),
    (torch.tensor([1], dtype=torch.bfloat16), "Token id 0 is 1.0"),
    ([torch.tensor(True), 1], "Token id 0 is tensor"),
    ([torch.tensor(1.5), 1], "Token id 0 is tensor"),
    (np.array([1 + 2j]), "Token id 0 is"),
    ({"text": "Hi"}, "A mapping with 'text' is not a prompt. Give 'input_ids'"),
    ({}, "A mapping with nothing is not a prompt"),
    (MESSAGE, "is one message, not a chat. Put it into a list"),
    ({"content": "Hi"}, "is one message, not a chat"),
    ({"prompt": "Hi", "multi_modal_data": {}}, "A mapping with 'prompt', 'multi_modal_data' is not a prompt"),
    ({"prompt": [1]}, r"'prompt' holds \[1\]. Give a text"),
    ({"prompt": None}, "'prompt' holds None"),
    ({"prompt_token_ids": "Hi"}, "'prompt_token_ids' holds 'Hi'"),
    ({"prompt_token_ids": None}, "None is not a prompt"),
    ({"input_ids": [1], "pixel_values": [0.5]}, "A prompt with 'pixel_values' beside its input_ids is more than text"),
    ({"input_ids": [1], "inputs_embeds": [0.5]}, "'inputs_embeds'"),
    ({"input_ids": "Hi"}, "input_ids = 'Hi' cannot work"),
    ({"input_ids": None}, "input_ids = None cannot work"),
    ({"input_ids": 5}, "input_ids = 5 cannot work"),
    ({"input_ids": [1, 2], "attention_mask": [1]}, r"attention_mask = \[1\] does not fit 2 input_ids"),
    ({"input_ids": [1, 2], "attention_mask": 1}, "attention_mask = 1 does not fit"),
    ({"input_ids": [1, 2], "attention_mask": [1, 0.5]}, "does not fit 2 input_ids. Give one 0 or 1"),
    ({"input_ids": [1, 2], "attention_mask": [[1, 1], [1, 1]]}, "does not fit"),
    ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "zeros between ones"),
    ({"input_ids": ["a", "b"]}, "Item 0 of the prompt is 'a', which is not a token id"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD)
def test_what_is_no_prompt_is_refused_by_name(prompt: Any, message: str) -> None:
    [alone] = split(prompt)
    with pytest.raises(InvalidRequestError, match=message):
        read(alone)


@pytest.mark.parametrize("prompt", [prompt for prompt, _ in BAD])
def test_in_a_batch_only_the_bad_one_is_refused(prompt: Any) -> None:
    assert seen(["a", prompt, [1]]) == ["a", InvalidRequestError, [1]]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([None, "a"], [InvalidRequestError, "a"]),
        ([None, None], [InvalidRequestError] * 2),
        ([b"a", "b"], [InvalidRequestError, "b"]),
        ([1, "a"], [InvalidRequestError, "a"]),
        ([[1], 2], [[1], InvalidRequestError]),
        ([[[1, 2]]], [InvalidRequestError]),
        ([[["a"]]], [InvalidRequestError]),
        ([["a", "b"], "c"], [InvalidRequestError, "c"]),
        ([[[MESSAGE]], [MESSAGE]], [InvalidRequestError, [MESSAGE]]),
        ([[Chat([MESSAGE])]], [InvalidRequestError]),
        ([MESSAGE, "a"], [InvalidRequestError, "a"]),
        ([MESSAGE, [1]], [InvalidRequestError, [1]]),
        ([MESSAGE, "Hi", ANSWER], [InvalidRequestError, "Hi", InvalidRequestError]),
        (np.zeros((1, 1, 1), dtype=int), [InvalidRequestError]),
        (np.array([[1.0], [2.0]]), [InvalidRequestError] * 2),
        (np.array([None, "a"], dtype=object), [InvalidRequestError, "a"]),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [1]]}, [[1, 2], InvalidRequestError]),
        ({"input_ids": [[1], [2.5]]}, [[1], InvalidRequestError]),
        ({"input_ids": [[1], [2]], "attention_mask": [[1]]}, [InvalidRequestError] * 2),
        ({"input_ids": [[1], [2]], "attention_mask": 1}, [InvalidRequestError] * 2),
        ({"input_ids": [[1], [2]], "attention_mask": None}, [[1], [2]]),
        ({"input_ids": [[1], [2]], "pixel_values": [0.5]}, [InvalidRequestError] * 2),
        ([{"input_ids": [[1], [2]]}], [InvalidRequestError]),
        ({"input_ids": [[1], 2]}, [[1], InvalidRequestError]),
        ([{"input_ids": [[7, 8]]}], [[7, 8]]),
        ([{"input_ids": [[7]], "attention_mask": [[1], [1]]}], [InvalidRequestError]),
        ([{"input_ids": [[7]], "attention_mask": [0]}], [InvalidRequestError]),
        ([{"content": "a"}, {"content": "b"}], [InvalidRequestError]),
        ([{"role": "user"}, {"role": "user"}], [InvalidRequestError]),
        ([np.str_("a"), 1], ["a", InvalidRequestError]),
        ([{"text": "a"}, {"text": "b"}], [InvalidRequestError] * 2),
    ],
)
def test_errors_belong_to_their_prompt(prompts: Any, expected: list[Any]) -> None:
    assert seen(prompts) == expected


def test_a_mask_of_another_shape_is_said_for_every_row() -> None:
    for row in split({"input_ids": [[1], [2]], "attention_mask": [[1]]}):
        with pytest.raises(InvalidRequestError, match=r"attention_mask = \[\[1\]\] does not fit 1 input_ids"):
            read(row)


def test_token_ids_alone_may_be_asked_for() -> None:
    assert token_ids(np.array([1, 2])) == token_ids(range(1, 3)) == [1, 2]
    for other in ("text", None, {1}, {"input_ids": [1]}):
        with pytest.raises(InvalidRequestError, match="is not a list of token ids"):
            token_ids(other)
    with pytest.raises(InvalidRequestError, match=r"Item 0 of the prompt is \[1\]"):
        token_ids([[1]])


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert seen(loop) == [InvalidRequestError]
    assert seen([loop, "a"]) == [InvalidRequestError, "a"]


def test_what_was_handed_in_stays_as_it_was() -> None:
    ids, chat = [1, 2], [dict(MESSAGE)]
    tokens = read(ids)
    assert isinstance(tokens, list)
    tokens.append(3)
    given = read(chat)
    chat[0]["content"] = "changed"
    assert ids == [1, 2]
    assert isinstance(given, Chat)
    assert given.messages[0]["content"] == "Hi"


def test_a_prompt_is_shown_in_words() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert words("Hi") == "Hi"
    assert words([1, 2, 3]) == "3 token ids"
    assert words([{"role": "system", "content": "S"}, {"role": "user", "content": parts}]) == "S\na\nb"
