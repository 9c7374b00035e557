"""JSON schemas made by code, and what is asked with each: records, lists, unions and references, of words, patterns,
numbers and choices, up to three levels deep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Schema = dict[str, Any]
SUBJECTS: dict[str, tuple[str, ...]] = {
    "city": ("name", "country", "population", "mayor", "founded", "is_capital"),
    "person": ("first_name", "last_name", "age", "email", "occupation", "married"),
    "book": ("title", "author", "year", "pages", "publisher", "in_print"),
    "flight": ("flight_number", "departure", "arrival", "seats", "airline", "delayed"),
    "recipe": ("dish", "servings", "main_ingredient", "minutes", "difficulty", "vegetarian"),
    "product": ("product_name", "price", "currency", "stock", "manufacturer", "available"),
    "animal": ("species", "habitat", "weight_kg", "lifespan", "diet", "endangered"),
    "song": ("title", "artist", "album", "seconds", "genre", "explicit"),
    "invoice": ("invoice_number", "customer", "total", "due_date", "status", "paid"),
    "server": ("hostname", "region", "cpu_count", "memory_gb", "operating_system", "online"),
}
CHOICES = (
    ("low", "medium", "high"), ("red", "green", "blue"), ("open", "closed", "pending"), ("EUR", "USD", "GBP", "JPY"),
    ("small", "large"), ("north", "south", "east", "west"),
)  # fmt: skip
PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "^[a-z]{3,8}$", "^#[0-9a-f]{6}$")


@dataclass(frozen=True)
class Task:
    """A question that is to be answered by JSON of a schema."""

    question: str
    schema: Schema


def tasks(count: int, seed: int = 0) -> list[Task]:
    """So many, with schemas that are all different."""
    draw, found = Random(seed), dict[str, Task]()
    while len(found) < count:
        subject = draw.choice(list(SUBJECTS))
        schema = _shaped(draw, subject)
        question = f"Describe a {subject}. Answer with JSON of this schema: {json.dumps(schema)}"
        found.setdefault(json.dumps(schema), Task(question, schema))
    return list(found.values())


def _shaped(draw: Random, subject: str) -> Schema:
    """A record; or a list of records, one with others inside, one or a word, or one that refers to another."""
    shape = draw.random()
    if shape < 0.15:
        return {"type": "array", "items": _record(draw, subject, 2), "minItems": 1, "maxItems": 2}
    other = draw.choice([name for name in SUBJECTS if name != subject])
    if shape < 0.3:
        return _with(_record(draw, subject, 2), other, _record(draw, other, 2))
    if shape < 0.35:
        inner = _with(_record(draw, other, 1), "part", _record(draw, draw.choice(list(SUBJECTS)), 1))
        return _with(_record(draw, subject, 1), other, inner)
    if shape < 0.45:
        return {"anyOf": [_record(draw, subject, 2), {"enum": [f"no {subject}", "unknown"]}]}
    if shape < 0.55:
        outer = _with(_record(draw, subject, 1), f"first_{other}", {"$ref": f"#/$defs/{other}"})
        outer = _with(outer, f"other_{other}", {"$ref": f"#/$defs/{other}"}, required=draw.random() < 0.5)
        return {"$defs": {other: _record(draw, other, 1)}, **outer}
    return _record(draw, subject, draw.randint(2, 5))


def _with(record: Schema, key: str, value: Schema, required: bool = True) -> Schema:
    """The record with one more key."""
    keys = [*record["required"], key] if required else record["required"]
    return {**record, "properties": {**record["properties"], key: value}, "required": keys}


def _record(draw: Random, subject: str, most: int) -> Schema:
    """Some keys of a subject, most of them required."""
    keys = sorted(draw.sample(SUBJECTS[subject], most), key=SUBJECTS[subject].index)
    return {
        "type": "object",
        "properties": {key: draw.choice(KINDS)(draw) for key in keys},
        "required": [key for place, key in enumerate(keys) if place == 0 or draw.random() < 0.85],
        "additionalProperties": False,
    }


KINDS: tuple[Callable[[Random], Schema], ...] = (
    lambda draw: {"type": "string", "maxLength": draw.choice((8, 12, 16))},
    lambda draw: {"type": "string", "maxLength": 12},
    lambda draw: {"type": "string", "pattern": draw.choice(PATTERNS)},
    lambda draw: {"type": "integer", "minimum": 0, "maximum": draw.choice((9, 100, 9999))},
    lambda draw: {"type": "number", "minimum": 0, "maximum": draw.choice((1, 50))},
    lambda draw: {"type": "boolean"},
    lambda draw: {"enum": list(draw.choice(CHOICES))},
    lambda draw: {"const": draw.choice(("v1", 7, True))},
    lambda draw: {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
    lambda draw: {"type": "array", "items": {"enum": list(draw.choice(CHOICES))}, "minItems": 1, "maxItems": 3},
)
"""Makers of a value's schema."""
