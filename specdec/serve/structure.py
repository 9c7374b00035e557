"""What a call says of the form of its text → a grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.checks import shown
from specdec.errors import ConfigError
from specdec.sampling import Grammar
from specdec.serve.errors import ApiError

OLD_NAMES = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
"""vLLM's, from before `structured_outputs`."""
FIELDS = ("response_format", "structured_outputs", *OLD_NAMES)
KINDS = ("json", "regex", "choice", "grammar", "json_object")
ANY_WHITESPACE = "disable_any_whitespace"


def grammar_of(given: dict[str, Any]) -> Grammar | None:
    """Takes the fields about the form out of those that a call sets; None if any text will do.

    Raises:
        ApiError: 400, if they cannot be understood, or ask for two forms.
    """
    asked = {name: given.pop(name) for name in FIELDS if name in given}
    found = {name: grammar for name, value in asked.items() if (grammar := _read(name, value)) is not None}
    if len(found) > 1:
        raise ApiError(400, f"{' and '.join(found)} ask for two forms. Give one of them.", next(iter(found)))
    return next(iter(found.values()), None)


def _read(name: str, value: Any) -> Grammar | None:
    try:
        if name == "response_format":
            return _response_format(value)
        return _structured(value if name == "structured_outputs" else {OLD_NAMES[name]: value})
    except ConfigError as error:
        raise ApiError(400, f"{name}: {error}", name) from error


def _response_format(value: Mapping[str, Any]) -> Grammar | None:
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar.json()
    if kind != "json_schema":
        raise ConfigError(f"type = {shown(kind)} cannot be honoured. Give text, json_object or json_schema.")
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping):
        raise ConfigError('there is no schema. Give {"type": "json_schema", "json_schema": {"schema": {…}}}.')
    return Grammar.json(schema)


def _structured(value: Mapping[str, Any]) -> Grammar:
    given = {name: each for name, each in value.items() if each is not None}
    flexible = given.pop(ANY_WHITESPACE, True) is False
    if unknown := given.keys() - set(KINDS):
        raise ConfigError(f"{shown(min(unknown))} cannot be honoured. Give one of {', '.join(KINDS)}.")
    if len(given) != 1:
        raise ConfigError(f"{len(given)} forms are asked for. Give one of {', '.join(KINDS)}.")
    [(kind, form)] = given.items()
    if kind == "json_object":
        if form is not True:
            raise ConfigError(f"json_object = {shown(form)} cannot work. Give true, or leave it out.")
        return Grammar.json(flexible=flexible)
    if kind == "json":
        if not isinstance(form, Mapping | str):
            raise ConfigError(f"json = {shown(form)} is not a schema. Give an object, or its text.")
        return Grammar.json(form, flexible)
    if kind == "choice":
        return Grammar.choice(form)
    if kind == "regex":
        return Grammar.regex(form)
    return Grammar.ebnf(form) if isinstance(form, str) and "::=" in form else Grammar.lark(form)
