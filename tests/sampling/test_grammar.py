"""What a user may write as a grammar, and what is refused before anything is compiled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from specdec import Grammar, SamplingParams
from specdec.errors import ConfigError
from specdec.sampling.grammar import DEEPEST, MOST_BYTES

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}


class Person(BaseModel):
    """A model of the kind that users have."""

    name: str
    age: int


def test_what_can_only_mean_one_thing_may_be_given_as_it_is() -> None:
    assert SamplingParams(grammar=SCHEMA).grammar == Grammar.json(SCHEMA)
    assert SamplingParams(grammar=Person).grammar == Grammar.json(Person.model_json_schema())
    assert SamplingParams(grammar=["yes", "no"]).grammar == Grammar.choice(["yes", "no"])
    assert SamplingParams(grammar=Grammar.regex("a+")).grammar == Grammar("regex", "a+")
    assert SamplingParams().grammar is None


@pytest.mark.parametrize("value", ["a+", b"a+", 3, object(), int])
def test_a_text_alone_may_mean_anything(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"grammar = .* say which by Grammar\.regex"):
        SamplingParams(grammar=value)


def test_the_order_of_a_schemas_properties_is_kept() -> None:
    assert list(json.loads(Grammar.json(SCHEMA).text)["properties"]) == ["b", "a"]
    assert Grammar.json(json.dumps(SCHEMA)) == Grammar.json(SCHEMA)
    assert json.loads(Grammar.json().text) == {"type": "object"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def test_schemas_have_a_greatest_depth_and_size() -> None:
    Grammar.json(nested(DEEPEST))
    with pytest.raises(ConfigError, match=f"more than {DEEPEST} levels"):
        Grammar.json(nested(DEEPEST + 1))
    with pytest.raises(ConfigError, match="is not JSON"):
        Grammar.json("[" * 100_000)
    Grammar.regex("a" * MOST_BYTES)
    with pytest.raises(ConfigError, match=f"{MOST_BYTES + 1} bytes is too large"):
        Grammar.regex("a" * (MOST_BYTES + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.json({"const": float("nan")}), "is not JSON"),
        (lambda: Grammar.json({"const": {1, 2}}), "is not JSON"),
        (lambda: Grammar.json("{"), "is not JSON"),
        (lambda: Grammar.json("3"), "is not a JSON schema"),
        (lambda: Grammar.json(int), "pydantic"),
        (lambda: Grammar.choice([]), "at least one non-empty text"),
        (lambda: Grammar.choice(["a", ""]), "at least one non-empty text"),
        (lambda: Grammar.choice("yes"), "at least one non-empty text"),
        (lambda: Grammar.regex(""), "non-empty text"),
        (lambda: Grammar.ebnf("root ::= \ud800"), "non-empty text"),
        (lambda: Grammar("xml", "<a/>"), "json, regex, choice, ebnf, lark"),  # type: ignore[arg-type]
        (lambda: Grammar.regex("a").spelt("short"), "any, canonical"),  # type: ignore[arg-type]
        (lambda: Grammar.written("a+"), "regex:…"),
        (lambda: Grammar.written("[1]"), "at least one non-empty text"),
    ],
)
def test_what_is_no_grammar_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_command_line_writes_every_kind_of_grammar() -> None:
    assert Grammar.written(' {"type": "object"}') == Grammar.json({"type": "object"})
    assert Grammar.written('["yes", "no: never"]') == Grammar.choice(["yes", "no: never"])
    assert Grammar.written("regex:a:[0-9]") == Grammar.regex("a:[0-9]")
    assert Grammar.written('ebnf:root ::= "a"') == Grammar.ebnf('root ::= "a"')
    assert Grammar.written('lark:start: "a"') == Grammar.lark('start: "a"')


@pytest.mark.parametrize(
    "beside", [{"min_tokens": 1}, {"ignore_eos": True}, {"constraint": None}], ids=lambda one: next(iter(one))
)
def test_settings_that_contradict_a_grammar_are_refused(beside: dict[str, Any]) -> None:
    from specdec.sampling import Choices

    if "constraint" in beside:
        beside = {"constraint": Choices([[1]], [0], 2)}
    with pytest.raises(ConfigError, match="Leave one of"):
        SamplingParams(grammar=["a"], **beside)
