"""JSON schemas made by code, and what is asked with each: records, lists and unions of words, numbers and choices."""

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
    """A record; or a list of records, a record with one inside, or one of two records."""
    shape = draw.random()
    if shape < 0.15:
        return {"type": "array", "items": _record(draw, subject, 2), "minItems": 1, "maxItems": 2}
    if shape < 0.3:
        other = draw.choice([name for name in SUBJECTS if name != subject])
        outer = _record(draw, subject, 2)
        outer["properties"][other] = _record(draw, other, 2)
        outer["required"].append(other)
        return outer
    if shape < 0.4:
        return {"anyOf": [_record(draw, subject, 2), {"enum": [f"no {subject}", "unknown"]}]}
    return _record(draw, subject, draw.randint(2, 5))


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
    lambda draw: {"type": "integer", "minimum": 0, "maximum": draw.choice((9, 100, 9999))},
    lambda draw: {"type": "boolean"},
    lambda draw: {"enum": list(draw.choice(CHOICES))},
    lambda draw: {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
)
"""Makers of a value's schema."""
