"""The embedded model writes JSON: what it finishes is valid, and drafts change no text."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from specdec import Grammar, SamplingParams, SpeculativeGenerator
from specdec.sampling.grammar import Spelling
from specdec.stats import DecodingStats

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")


def record(**properties: Any) -> dict[str, Any]:
    """An object with all of these properties and no other."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip


WORD, NUMBER = {"type": "string", "maxLength": 16}, {"type": "integer", "minimum": 0, "maximum": 9999}
FLAG, COLOUR = {"type": "boolean"}, {"enum": ["red", "green", "blue", "ultramarine"]}
SCHEMAS: dict[str, dict[str, Any]] = {
    "a city": record(name=WORD, population=NUMBER),
    "a person": record(first_name=WORD, last_name=WORD, age=NUMBER),
    "a car": record(make=WORD, color=COLOUR, electric=FLAG),
    "a book": record(title=WORD, author=record(name=WORD, born=NUMBER)),
    "a point": record(x={"type": "integer"}, y={"type": "integer"}),
    "three colors": {"type": "array", "items": COLOUR, "minItems": 3, "maxItems": 3},
    "an answer": {"enum": ["yes", "no", "perhaps"]},
    "a switch": FLAG,
    "a date": {"type": "string", "format": "date"},
    "a price": record(amount={"type": "number", "minimum": 0, "maximum": 100}, currency={"enum": ["EUR", "USD"]}),
    "a flight": record(departure=WORD, arrival=WORD, flight_number={"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}),
    "a weather report": record(temperature_celsius=NUMBER, conditions={"enum": ["sunny", "cloudy", "rainy"]}),
    "a choice": {"anyOf": [record(radius=NUMBER), record(kind={"const": "line"}, length=NUMBER)]},
    "a team": record(team_name=WORD, members={"type": "array", "items": WORD, "minItems": 2, "maxItems": 2}),
    "nothing or a number": {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
    "a login": record(username=WORD, remember_me=FLAG, two_factor_authentication=FLAG),
    "a fixed record": record(version={"const": 3}, description={"const": "a record that is fixed"}),
    "a list of points": {"type": "array", "items": record(x=NUMBER), "minItems": 1, "maxItems": 2},
    "an optional note": {"type": "object", "properties": {"id": NUMBER, "note": WORD}, "required": ["id"],
                         "additionalProperties": False},
    "a reference": {"$defs": {"id": NUMBER}, **record(identifier={"$ref": "#/$defs/id"}, verified=FLAG)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.xdist_group("real model")
@pytest.mark.parametrize(("spelling", "least", "least_mean"), [("any", 0.3, 1.4), ("canonical", 0.6, 1.8)])
def test_twenty_schemas_are_kept_to_with_drafts_and_without(
    spelling: Spelling, least: float, least_mean: float
) -> None:
    """Every text that is finished is valid, and the same as in constrained plain decoding. What the schemas force is
    drafted, and the branches of what they leave open, of which one at most is accepted. With any spelling the model is
    free to spell it otherwise, and often does."""
    prompts = [f"Write {what} as JSON: " for what in SCHEMAS]
    params = [
        SamplingParams(max_tokens=64, grammar=Grammar.json(schema).spelt(spelling)) for schema in SCHEMAS.values()
    ]
    plain = SpeculativeGenerator.from_pretrained(drafter="none")
    expected = plain.generate(prompts, params, progress=False)
    generations = plain.with_drafter("ngram").generate(prompts, params, progress=False)
    for one, alone, schema in zip(generations, expected, SCHEMAS.values(), strict=True):
        assert one.text == alone.text
        assert one.finish_reason in ("stop", "length")
        if one.finish_reason == "stop":
            jsonschema.validate(json.loads(one.text), schema)
    assert sum(one.finish_reason == "stop" for one in generations) >= 18
    total = DecodingStats.total(one.stats for one in generations)
    forced = total.of("forced")
    print(f"{spelling}: {forced.accepted_tokens} of {forced.drafted_tokens}, τ {total.mean_accepted_length:.2f}")
    assert forced.drafted_tokens > 100
    assert forced.accepted_tokens > least * forced.drafted_tokens
    assert total.mean_accepted_length > least_mean
