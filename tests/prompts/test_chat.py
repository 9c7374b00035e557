"""What a chat may hold. A chat is checked when it is made, and keeps a copy."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specdec import Chat, InvalidRequestError

USER = {"role": "user", "content": "Hi"}


@dataclass
class Call:
    name: str
    arguments: dict[str, Any]


def kept(value: Any) -> Any:
    """A value of a message's, as a template sees it."""
    return Chat([{**USER, "extra": value}]).messages[0]["extra"]


def test_values_become_plain_ones() -> None:
    given = {
        "a": np.int64(1),
        "b": np.float32(0.5),
        "c": (np.bool_(True), None),
        2: OrderedDict(x="y"),
        None: [Call("f", {})],
    }
    seen = kept(given)
    assert seen == {"a": 1, "b": 0.5, "c": (True, None), 2: {"x": "y"}, None: [{"name": "f", "arguments": {}}]}
    assert [type(seen[name]) for name in ("a", "b", "c", 2)] == [int, float, tuple, dict]
    assert type(seen["c"][0]) is bool


def test_fields_that_are_none_count_as_left_out() -> None:
    chat = Chat([{"role": "assistant", "content": None, "tool_calls": [Call("f", {})], "name": None}])
    assert list(chat.messages[0]) == ["role", "tool_calls"]


def test_a_chat_does_not_change() -> None:
    message: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    variables: dict[str, Any] = {"flags": [1]}
    chat = Chat([message], template_kwargs=variables)
    message["content"][0]["text"] = "changed"
    variables["flags"].append(2)
    assert chat.messages[0]["content"][0]["text"] == "a"
    assert chat.template_kwargs == {"flags": [1]}
    with pytest.raises(FrozenInstanceError):
        chat.messages = []  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "begins"),
    [({}, True), ({"continue_final_message": True}, False), ({"add_generation_prompt": False}, False),
     ({"add_generation_prompt": False, "continue_final_message": True}, False),
     ({"add_generation_prompt": True}, True)],
)  # fmt: skip
def test_an_answer_begins_unless_a_message_goes_on(given: dict[str, Any], begins: bool) -> None:
    assert Chat([USER], **given).begins_an_answer is begins


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "A chat without messages cannot be answered"),
        (None, "messages = None cannot work. Give a list of messages"),
        ("Hi", "messages = 'Hi' cannot work"),
        (USER, "messages = {.*} cannot work"),
        ({1, 2}, r"messages = {1, 2} \(set\) cannot work"),
        (["Hi"], "Message 0 = 'Hi' cannot work. Give a mapping with role and content"),
        ([USER, None], "Message 1 = None cannot work"),
        ([USER, [USER]], r"Message 1 = \[\{.*\}\] cannot work"),
        ([Call], r"Message 0 = <class .*> \(type\) cannot work"),
        ([{"content": "Hi"}], "Message 0 has role = None. Give a role such as"),
        ([{"role": "", "content": "Hi"}], "Message 0 has role = ''"),
        ([{"role": 5, "content": "Hi"}], "Message 0 has role = 5"),
        ([{"role": ["user"], "content": "Hi"}], r"Message 0 has role = \['user'\]"),
        ([{"role": "user"}], "Message 0 has no content, but 'role'. Give it a text"),
        ([USER, {"role": "user", "contents": "Hi"}], "Message 1 has no content, but 'role', 'contents'"),
        ([{"role": "user", "content": None}], "Message 0 has no content"),
        ([{"role": "user", "content": 5}], "Message 0 has content = 5. Give a text, or a list of text parts"),
        ([{"role": "user", "content": True}], "Message 0 has content = True"),
        ([{"role": "tool", "content": {"a": 1}}], "Message 0 has content = {'a': 1}"),
        ([{"role": "user", "content": b"Hi"}], r"Message 0\['content'\] = b'Hi' \(bytes\) cannot work"),
        ([{"role": "user", "content": ["Hi"]}], "Message 0, part 0, is 'Hi'. Models here read text alone"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}]}],
         "Message 0, part 1, is of type 'image_url'. Models here read text alone"),
        ([{"role": "user", "content": [{"type": "image"}]}], "part 0, is of type 'image'"),
        ([{"role": "user", "content": [{"text": "a"}]}], "part 0, is of type None"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "part 0, has text = 5. Give a text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "part 0, has text = None"),
        ([{"role": "user", "content": "a\udfff"}], "Message 0.'content'. = 'a.udfff' holds half of a surrogate pair"),
        ([{**USER, "image": torch.zeros(2)}], r"Message 0\['image'\] = tensor.* \(Tensor\) cannot work"),
        ([{**USER, "path": Path("a")}], r"Message 0\['path'\] = PosixPath\('a'\) \(PosixPath\) cannot work"),
        ([{**USER, "f": len}], r"Message 0\['f'\] = <built-in function len> "),
        ([{**USER, "a": {"b": [1, {3}]}}], r"Message 0\['a'\]\['b'\]\[1\] = \{3\} \(set\) cannot work"),
        ([{**USER, ("a", 1): 2}], r"A key of Message 0 = \('a', 1\) cannot work. Give text"),
        ([{**USER, "loop": LOOP}], "is nested deeper than 64 levels"),
        ([{**USER, "deep": DEEP}], "is nested deeper than 64 levels"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_used_are_named(messages: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Chat(messages)


def undescribed(place):  # type: ignore[no-untyped-def]
    return place


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": "weather"}, "tools = 'weather' cannot work. Give a list of JSON schemas or functions"),
        ({"tools": {"name": "weather"}}, "tools = {.*} cannot work"),
        ({"tools": ["weather"]}, "Tool 0 = 'weather' cannot work. Give a JSON schema or a function"),
        ({"tools": [{"a": 1}, Call]}, "Tool 1 = <class"),
        (
            {"tools": [undescribed]},
            "Cannot describe tool 0, <function undescribed .* Give it type hints and a docstring",
        ),
        ({"tools": [{"f": {1}}]}, r"Tool 0\['f'\] = \{1\} \(set\) cannot work"),
        (
            {"template": ""},
            "template = '' cannot work. Give the name of one of the tokenizer's templates, or a template",
        ),
        ({"template": 5}, "template = 5 cannot work"),
        ({"continue_final_message": "yes"}, "continue_final_message = 'yes' cannot work. Give True or False"),
        ({"continue_final_message": None}, "continue_final_message = None cannot work"),
        ({"add_generation_prompt": 1}, "add_generation_prompt = 1 cannot work. Give True or False, or None"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "exclude each other"),
        ({"template_kwargs": None}, "template_kwargs = None cannot work. Give names with their values"),
        ({"template_kwargs": [("a", 1)]}, "template_kwargs = .* cannot work"),
        ({"template_kwargs": {1: 2}}, "template_kwargs = {1: 2} cannot work"),
        ({"template_kwargs": {"tools": []}}, r"template_kwargs cannot set 'tools'. Give Chat\(…, tools=…\)"),
        ({"template_kwargs": {"messages": []}}, "template_kwargs cannot set 'messages'"),
        ({"template_kwargs": {"add_generation_prompt": True}}, "template_kwargs cannot set 'add_generation_prompt'"),
        ({"template_kwargs": {"now": Path("a")}}, r"template_kwargs\['now'\] = PosixPath"),
    ],
)
def test_other_fields_that_cannot_be_used_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Chat([USER], **fields)


def test_the_words_of_a_chat_are_its_messages_one_below_the_other() -> None:
    parts = [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]
    called: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": 1}]}
    chat = Chat([{"role": "system", "content": "A"}, {"role": "user", "content": parts}, called, USER])
    assert chat.words == f"A\nB\nC\n\n{USER['content']}"
