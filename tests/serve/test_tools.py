"""Tools in chats: every call keeps to its schema, whole or streamed; what the model is told; refusals."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from specdec import EngineConfig, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter
from specdec.models.loading import LoadedModel
from specdec.serve.app import Service
from specdec.serve.tools import CallReader, ToolForm, told, tools_of
from tests.serve import services
from tests.serve.services import CHAT, NAME, TEMPLATE, events, post
from tests.tiny import llama

COLOUR: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"$ref": "#/$defs/colour"}, "bright": {"type": "boolean"}},
    "required": ["colour", "bright"],
    "additionalProperties": False,
    "$defs": {"colour": {"enum": ["red", "green"]}},
}
COUNT = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": COLOUR}},
    {"type": "function", "function": {"name": "paint_over", "parameters": COUNT}},
]
SCHEMAS = {"paint": COLOUR, "paint_over": COUNT}
HERMES = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>\n{{ c['function'] | tojson }}\n</tool_call>{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
FORMS = {
    "bare": ToolForm(),
    "marks": ToolForm(True, "<tool_call>\n", "\n</tool_call>"),
    "llama": ToolForm(True, key="parameters"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(TEMPLATE, id="told in words", marks=pytest.mark.slow),
        pytest.param(HERMES, id="read by the template"),
    ],
)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    tokenizer = copy.deepcopy(services.loaded().tokenizer)
    tokenizer.chat_template = request.param
    loaded = LoadedModel(llama(vocab_size=400, max_context=1024), tokenizer, eos=(tokenizer.eos_token_id,))
    sizes = EngineConfig(block_size=4, num_blocks=512, max_batch_tokens=256)
    made = Service(SpeculativeGenerator(loaded, NgramDrafter(4, 1), config=sizes), NAME)
    try:
        yield made
    finally:
        made.close()


def ask(service: Service, **fields: Any) -> dict[str, Any]:
    body = {"messages": CHAT, "tools": TOOLS, "max_tokens": 120, "seed": 1, **fields}
    answer = post(service, "/v1/chat/completions", **body)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return choice


def streamed(service: Service, **fields: Any) -> tuple[str, list[dict[str, Any]], str]:
    """Content, calls and reason, put together as a client does."""
    body = {"messages": CHAT, "tools": TOOLS, "max_tokens": 120, "seed": 1, "stream": True, **fields}
    content, calls, reason = "", list[dict[str, Any]](), ""
    for chunk in events(post(service, "/v1/chat/completions", **body)):
        [choice] = chunk["choices"]
        content += choice["delta"].get("content") or ""
        reason = choice["finish_reason"] or reason
        for piece in choice["delta"].get("tool_calls", ()):
            if piece["index"] == len(calls):
                calls.append({"id": piece["id"], "type": piece["type"], "function": dict(piece["function"])})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return content, calls, reason


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint_over"}}], ids=str)
def test_a_call_that_must_be_made_keeps_to_its_schema_whole_or_streamed(service: Service, choice: Any) -> None:
    called = set()
    for seed in range(2):
        whole = ask(service, tool_choice=choice, seed=seed)
        [call] = whole["message"]["tool_calls"]
        assert (whole["finish_reason"], whole["message"]["content"], call["type"]) == ("tool_calls", None, "function")
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
        called.add(call["function"]["name"])
        content, [same], reason = streamed(service, tool_choice=choice, seed=seed)
        assert (content, reason, same["function"]) == ("", "tool_calls", call["function"])
        assert same["id"]
    assert called <= (SCHEMAS.keys() if choice == "required" else {"paint_over"})


def test_auto_calls_or_talks_and_streams_the_same(service: Service) -> None:
    """The bias makes a call unlikely, or certain: of the character with which it begins."""
    first = next(iter(service.answering._reader._form.opening or "{"))  # type: ignore[attr-defined]
    token = service.generator.tokenizer.encode(first, add_special_tokens=False)[0]
    for bias, calls in ((100.0, True), (-100.0, False)):
        fields = (
            {"logit_bias": {str(token): bias}, "max_tokens": 30} if not calls else {"logit_bias": {str(token): bias}}
        )
        whole, (content, made, reason) = ask(service, **fields), streamed(service, **fields)
        assert bool(whole["message"].get("tool_calls")) is calls
        assert (whole["message"]["content"] or "") == content
        assert [one["function"] for one in whole["message"].get("tool_calls", [])] == [one["function"] for one in made]
        assert whole["finish_reason"] == reason
        assert calls is (reason == "tool_calls")


def test_a_call_that_is_cut_says_so(service: Service) -> None:
    whole = ask(service, tool_choice="required", max_tokens=40)
    assert whole["finish_reason"] == "length"
    _, _, reason = streamed(service, tool_choice="required", max_tokens=3)
    assert reason == "length"


def test_none_is_as_if_there_were_no_tools(service: Service) -> None:
    plain = post(service, "/v1/chat/completions", messages=CHAT, max_tokens=9, seed=1).json()["choices"][0]
    assert ask(service, tool_choice="none", max_tokens=9) == plain


def test_results_are_read(service: Service) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "paint_over", "arguments": '{"n": 22}'}}
    turn = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert ask(service, messages=[*CHAT, *turn], tool_choice="required")["finish_reason"] == "tool_calls"


def test_what_a_model_is_told() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "paint_over", "arguments": '{"n": 22}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    tools = tools_of({"tools": TOOLS}, FORMS["bare"])
    system, said, result = told(messages, tools, FORMS["bare"])
    assert system["content"].startswith("Be kind.\n\nYou can call one of these functions.")
    assert system["content"].endswith(json.dumps([one["function"] for one in TOOLS]))
    assert said == {"role": "assistant", "content": '{"name": "paint_over", "arguments": {"n": 22}}'}
    assert result == {"role": "user", "content": "done"}
    native = told(messages, tools, FORMS["marks"])
    assert native[1]["tool_calls"][0]["function"] == {"name": "paint_over", "arguments": {"n": 22}}
    assert native[2] == messages[2]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_however_a_text_is_cut_its_call_is_the_same(form: ToolForm) -> None:
    """All ways to cut it in two, and one character at a time."""
    tools = tools_of({"tools": TOOLS, "tool_choice": "required"}, form)
    assert tools is not None
    arguments = '{"n": 22}'
    text = f'{form.opening}{{"name": "paint_over", "{form.key}": {arguments}}}{form.closing}'
    for pieces in (*([text[:at], text[at:]] for at in range(len(text) + 1)), [*text, ""]):
        reader = CallReader(tools, "id")
        said = [reader.read(piece, place == len(pieces) - 1) for place, piece in enumerate(pieces)]
        functions = [one["function"] for _, calls in said for one in calls]
        assert [content for content, _ in said if content] == []
        assert [one["name"] for one in functions if "name" in one] == ["paint_over"]
        assert "".join(one["arguments"] for one in functions) == arguments
        assert reader.complete


@pytest.mark.parametrize(
    ("template", "form"),
    [(TEMPLATE, "bare"), (HERMES, "marks"), ('{{ tools }} {"name": x, "parameters": dictionary}', "llama")],
)
def test_the_form_is_the_templates(template: str, form: str) -> None:
    class Tokenizer:
        chat_template = template

    assert ToolForm.of(Tokenizer()) == FORMS[form]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": "paint"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "erase"}}}, "tool_choice"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "a"}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "nothing"}}}]}, None),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}]},
            "messages",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    service: Service, fields: dict[str, Any], param: str | None
) -> None:
    answer = post(service, "/v1/chat/completions", **{"messages": CHAT, **fields})
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param
