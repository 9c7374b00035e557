"""Forms that clients ask for in OpenAI's and vLLM's words: the texts are those of Python's `grammar`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from specdec import Grammar, SamplingParams
from specdec.serve.app import Service
from tests.serve import services
from tests.serve.services import CHAT, events, generator, post

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
EBNF, LARK = 'root ::= "a" | "bb" root', 'start: "a" | "bb" start'
FORMS: list[tuple[dict[str, Any], Grammar]] = [
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        Grammar.json(SCHEMA),
    ),
    ({"response_format": {"type": "json_object"}}, Grammar.json()),
    ({"structured_outputs": {"json": SCHEMA, "regex": None}}, Grammar.json(SCHEMA)),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, Grammar.json(json.dumps(SCHEMA))),
    ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": False}}, Grammar.json(SCHEMA, flexible=True)),
    ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, Grammar.json(SCHEMA)),
    ({"structured_outputs": {"json_object": True}}, Grammar.json()),
    ({"structured_outputs": {"regex": "[ab]{3}c"}}, Grammar.regex("[ab]{3}c")),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, Grammar.choice(["yes", "no"])),
    ({"structured_outputs": {"grammar": EBNF}}, Grammar.ebnf(EBNF)),
    ({"structured_outputs": {"grammar": LARK}}, Grammar.lark(LARK)),
    ({"guided_json": SCHEMA}, Grammar.json(SCHEMA)),
    ({"guided_regex": "[ab]{3}c"}, Grammar.regex("[ab]{3}c")),
    ({"guided_choice": ["yes", "no"]}, Grammar.choice(["yes", "no"])),
    ({"guided_grammar": EBNF}, Grammar.ebnf(EBNF)),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with services.service() as made:
        yield made


@pytest.mark.parametrize(("form", "grammar"), FORMS, ids=lambda value: str(value)[:50])
def test_a_form_is_pythons_grammar(service: Service, form: dict[str, Any], grammar: Grammar) -> None:
    params = {"max_tokens": 24, "temperature": 1.0, "seed": 5}
    with generator() as alone:
        [wanted] = alone.generate(CHAT, SamplingParams(grammar=grammar, **params))
    whole = post(service, "/v1/chat/completions", messages=CHAT, **params, **form).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == (wanted.text, wanted.finish_reason)
    chunks = events(post(service, "/v1/chat/completions", messages=CHAT, stream=True, **params, **form))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == wanted.text


def test_a_text_is_what_its_schema_says(service: Service) -> None:
    for seed in range(6):
        answer = post(service, "/v1/chat/completions", messages=CHAT, seed=seed, max_tokens=60, **FORMS[0][0]).json()
        found = json.loads(answer["choices"][0]["message"]["content"])
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert found["ok"] in (True, False)
        assert found["size"] in ("small", "large")


def test_text_asks_for_nothing(service: Service) -> None:
    same = [
        post(service, "/v1/completions", prompt="the fox", temperature=0, max_tokens=8, **form).json()["choices"][0]
        for form in ({}, {"response_format": {"type": "text"}})
    ]
    assert same[0] == same[1]
