"""Chats become the text that transformers' `apply_chat_template` makes, or are refused as that prompt's error."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest

from specdec import Chat, InvalidRequestError
from specdec.prompts.rendering import text_of
from tests.prompts.scenes import CHATML, GEMMA, LLAMA, MISTRAL, QWEN, TEMPLATES, TRACKED, tokenizer

pytestmark = pytest.mark.fewer(3)

USER = {"role": "user", "content": "Hi, <b>you</b> 🙂 "}
ANSWER = {"role": "assistant", "content": " Hello. "}
SYSTEM = {"role": "system", "content": "Answer in one word.\n"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place – now",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "n": [2.5]}}}],
}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "three": [USER, ANSWER, USER],
    "system": [SYSTEM, USER],
    "unknown role": [{"role": "critic", "content": "No."}],
    "answer last": [USER, ANSWER],
    "call": [USER, CALL, {"role": "tool", "name": "weather", "content": "rain"}],
    "reasoning": [USER, {"role": "assistant", "content": "4", "reasoning": "2 + 2"}],
    "thinking": [USER, {"role": "assistant", "content": "4", "thinking": "2 + 2", "reasoning": "3"}, USER],
    "text with thoughts": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}],
    "empty": [{"role": "user", "content": ""}],
    "loop control": [{"role": "skip", "content": "a"}, USER, {"role": "end", "content": "b"}, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}],
    "braces": [{"role": "user", "content": "{{ 1 + 1 }} {% if x %}"}],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "answer": {"add_generation_prompt": True},
    "as it is": {"add_generation_prompt": False},
    "continued": {"continue_final_message": True},
    "tools": {"add_generation_prompt": True, "tools": [WEATHER]},
    "thinking off": {"add_generation_prompt": True, "enable_thinking": False},
    "date": {"add_generation_prompt": True, "date_string": "1 Jan 2001"},
}
READ = {"tools": {"llama", "qwen"}, "enable_thinking": {"qwen"}, "date_string": {"llama"}}
"""Which template reads what; to the others it cannot be given."""
CASES = [
    (template, chat, setting)
    for template, chat, setting in itertools.product(TEMPLATES, CHATS, SETTINGS)
    if all(template in READ.get(name, TEMPLATES) for name in SETTINGS[setting])
]


def chat_of(messages: list[dict[str, Any]], **settings: Any) -> Chat:
    fields = ("add_generation_prompt", "continue_final_message", "tools")
    own = {name: settings.pop(name) for name in fields if name in settings}
    return Chat(messages, **own, template_kwargs=settings)


@pytest.mark.parametrize(("template", "chat", "setting"), CASES)
def test_the_text_is_that_of_transformers(template: str, chat: str, setting: str) -> None:
    """Wherever it makes one. A template that reads text alone gets parts as one text."""
    one = tokenizer(TEMPLATES[template])
    messages, settings = CHATS[chat], SETTINGS[setting]
    theirs = messages if chat != "parts" or template == "gemma" else [{"role": "user", "content": "a\n b"}]
    try:
        want = one.apply_chat_template(theirs, tokenize=False, **settings)
    except Exception:
        want = None
    if want is None:
        with pytest.raises(InvalidRequestError):
            text_of(chat_of(messages, **settings), one)
    else:
        assert text_of(chat_of(messages, **settings), one) == want


def test_most_cases_have_a_text() -> None:
    """The comparison above would pass if everything were refused."""
    made = dict.fromkeys(TEMPLATES, 0)
    for template, chat, setting in CASES:
        with suppress(InvalidRequestError):
            made[template] += bool(text_of(chat_of(CHATS[chat], **SETTINGS[setting]), tokenizer(TEMPLATES[template])))
    assert all(count > 0.5 * sum(case[0] == template for case in CASES) for template, count in made.items()), made


def refusal(messages: list[dict[str, Any]], own: Any, **fields: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        text_of(Chat(messages, **fields), tokenizer(own))
    return str(caught.value)


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (MISTRAL, [SYSTEM, USER], "Conversation roles must alternate user/assistant/user/assistant/..."),
        (MISTRAL, [USER, SYSTEM], "Only user and assistant roles are supported!"),
        (LLAMA, [USER, {**CALL, "tool_calls": CALL["tool_calls"] * 2}], "only supports single tool-calls at once!"),
        (CHATML, [USER, CALL], "'dict object' has no attribute 'content'"),
        ("{{ messages[0]['content'] + 1 }}", [USER], 'can only concatenate str (not "int") to str'),
        ("{{ messages | nosuch }}", [USER], "No filter named 'nosuch'."),
        ("{% for m in messages %}", [USER], "Unexpected end of template"),
        ("{{ 'x' * 10**10 }}", [USER], "it takes more than 256 MB of memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", [USER], "it is nested, or calls itself, too deeply"),
    ],
)
def test_what_the_template_says_is_passed_on_with_a_remedy(
    template: str, messages: list[dict[str, Any]], message: str
) -> None:
    told = refusal(messages, template)
    assert told.startswith("Cannot apply the chat template: ")
    assert message in told
    assert told.endswith(
        "Change the messages, or give the prompt as text or with another template: Chat(…, template=…)."
    )


@pytest.mark.parametrize(
    ("own", "fields", "text"),
    [
        ("own", {}, "own"),
        ("own", {"template": "{{ 'given' }}"}, "given"),
        (None, {"template": "{{ 'given' }}"}, "given"),
        ({"default": "d", "tool_use": "{{ tools and 't' }}"}, {}, "d"),
        ({"default": "d", "tool_use": "{{ tools and 't' }}"}, {"tools": [WEATHER]}, "t"),
        ({"default": "d", "rag": "r"}, {"template": "rag"}, "r"),
        ({"rag": "r"}, {"template": "{{ 'given' }}"}, "given"),
    ],
)
def test_templates_are_chosen_by_name_or_given(own: Any, fields: dict[str, Any], text: str) -> None:
    assert text_of(Chat([USER], **fields), tokenizer(own)) == text


@pytest.mark.parametrize(
    ("own", "fields", "message"),
    [
        (None, {}, "Chat messages need a chat template, and this tokenizer has none."),
        ("", {}, "Chat messages need a chat template"),
        ({}, {}, "Chat messages need a chat template"),
        (None, {"template": "rag"}, "There is no chat template 'rag'. The tokenizer's names: none."),
        ("own", {"template": "rag"}, "There is no chat template 'rag'. The tokenizer's names: none."),
        ({"a": "a", "b": "b"}, {}, "The tokenizer has several chat templates. Choose one of 'a', 'b'"),
        ({"a": "a", "b": "b"}, {"template": "c"}, "There is no chat template 'c'. The tokenizer's names: 'a', 'b'."),
        ({"default": 5}, {}, "The tokenizer's chat_template = 5 is not a text."),
        (["own"], {}, "The tokenizer's chat_template = ['own'] is not a text."),
    ],
)
def test_a_template_that_is_not_there_is_named(own: Any, fields: dict[str, Any], message: str) -> None:
    assert refusal([USER], own, **fields).startswith(message)


def test_what_no_template_reads_is_refused() -> None:
    assert "does not read 'enable_thinkin', so it would do nothing" in refusal(
        [USER], QWEN, template_kwargs={"enable_thinkin": False}
    )
    assert "It reads add_generation_prompt, content, enable_thinking, messages, reasoning_content, tools." in refusal(
        [USER], QWEN, template_kwargs={"x": 1}
    )
    assert "does not read 'tools'" in refusal([USER], CHATML, tools=[WEATHER])
    assert "does not read 'tools'" in refusal([USER], MISTRAL, tools=[])


def test_functions_are_tools() -> None:
    def weather(place: str) -> str:
        """
        Weather of a place – now

        Args:
            place: where
        """
        return place

    one = tokenizer(QWEN)
    want = one.apply_chat_template([USER], tools=[weather], tokenize=False, add_generation_prompt=True)
    assert text_of(Chat([USER], tools=[weather]), one) == want
    assert '"where"' in want


def test_special_tokens_can_be_replaced_as_in_transformers() -> None:
    want = tokenizer(LLAMA).apply_chat_template([USER], tokenize=False, bos_token="<B>", add_generation_prompt=True)
    assert text_of(Chat([USER], template_kwargs={"bos_token": "<B>"}), tokenizer(LLAMA)) == want
    assert want.startswith("<B>")


def test_parts_are_joined_only_for_templates_that_read_text_alone() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]}]
    assert text_of(Chat(parts), tokenizer(GEMMA)) == "<s><start_of_turn>user\nab<end_of_turn>\n<start_of_turn>model\n"
    assert "user\n a \nb<|im_end|>" in text_of(Chat(parts), tokenizer(CHATML))


@pytest.mark.parametrize("template", [CHATML, GEMMA, LLAMA, TRACKED])
def test_a_continued_message_is_open(template: str) -> None:
    chat = [USER, {"role": "assistant", "content": "The answer is "}]
    text = text_of(Chat(chat, continue_final_message=True), tokenizer(template))
    assert text.rstrip().endswith("The answer is")


def test_the_last_part_of_a_message_is_continued() -> None:
    chat = [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    want = tokenizer(GEMMA).apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert text_of(Chat(chat, continue_final_message=True), tokenizer(GEMMA)) == want
    assert text_of(Chat(chat, continue_final_message=True), tokenizer(CHATML)).endswith("assistant\na\nb")


def test_the_last_of_many_parts_keeps_its_fields() -> None:
    parts = [{"type": "text", "text": text, "label": text * 2} for text in "abc"]
    template = (
        "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}{% for part in messages[0].content %}"
        "{{ part.label }}{{ part.text }}{% endfor %}{% endif %}."
    )
    chat = Chat([{"role": "user", "content": parts}], continue_final_message=True)
    assert text_of(chat, tokenizer(template)) == "aaabbbccc"


def test_a_text_of_nothing_but_the_message_is_continued() -> None:
    template = "{{ messages[0].content }}."
    for content in ("a", ""):
        chat = Chat([{"role": "user", "content": content}], continue_final_message=True)
        assert text_of(chat, tokenizer(template)) == content


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        ([USER, CALL], QWEN, "The last message has content = None, which cannot be continued."),
        ([{"role": "user", "content": []}], GEMMA, "The last message has content = [], which cannot be continued."),
        ([USER, ANSWER], "{{ messages[0].content }}", "The chat template leaves out the last message, ' Hello. '"),
        ([USER, ANSWER], "{{ messages[1].content[3:] }}", "The chat template leaves out the last message"),
        ([USER, ANSWER], "{{ messages }}", "The last message has content = ' Hello. ', which cannot be continued."),
    ],
)
def test_what_cannot_be_continued_is_said(messages: list[dict[str, Any]], template: str, message: str) -> None:
    assert refusal(messages, template, continue_final_message=True).startswith(message)
