"""What a text must keep to, as a user writes it: a JSON schema, a regular expression, choices or a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from specdec.checks import Unfit, several, shown, take, text
from specdec.errors import ConfigError

GrammarKind = Literal["json", "regex", "choice", "ebnf", "lark"]
Spelling = Literal["any", "canonical"]
MOST_BYTES = 1 << 18
"""Of a grammar's text in UTF-8. The largest take about a second to compile."""
DEEPEST = 64
"""Levels of a JSON schema, lists and objects together."""
CHOICES = several(text(), "a list of at least one non-empty text", least=1)


@dataclass(frozen=True)
class Grammar:
    """A language that a text must belong to. `SamplingParams(grammar=…)` takes one; make it with a constructor below.

    The text ends where the grammar lets it, and goes no further than it lets it. If `max_tokens` or a stop string ends
    it before, it is only the beginning of a text of the language.

    Args:
        kind: how `text` is to be read.
        text: the schema as JSON, the choices as JSON, the expression, or the grammar.
        flexible: JSON may have any whitespace between its parts. Else it is written as `json.dumps` does: ", " and
            ": ". Small models may write whitespace for ever, and fixed separators can be drafted.
        spelling: of text that the grammar forces, by tokens. "any" leaves it to the model; "canonical" is the
            tokenizer's own, which models know best and which makes every forced draft right. The texts are the same.

    Raises:
        ConfigError: if the text is empty, is not JSON where it must be, or is too large or too deep.
    """

    kind: GrammarKind
    text: str
    flexible: bool = False
    spelling: Spelling = "any"

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            raise ConfigError(f"kind = {shown(self.kind)} cannot work. Give one of {', '.join(get_args(GrammarKind))}.")
        if self.spelling not in get_args(Spelling):
            raise ConfigError(f"spelling = {shown(self.spelling)} cannot work. Give one of any, canonical.")
        take(f"The text of a {self.kind} grammar", self.text, text())
        if (size := len(self.text.encode())) > MOST_BYTES:
            raise ConfigError(f"A grammar of {size} bytes is too large. Give at most {MOST_BYTES}.")
        if self.kind == "json":
            _check_depth(_parsed(self.text))
        if self.kind == "choice":
            take("choices", _parsed(self.text), CHOICES)

    @classmethod
    def json(cls, schema: Mapping[str, Any] | type | str | None = None, flexible: bool = False) -> Grammar:
        """JSON that a schema describes. Keys come in the order in which the schema lists its properties.

        Args:
            schema: as a dict, as JSON text, or a pydantic model class; None is any object.
            flexible: see the class.
        """
        if schema is None:
            schema = {"type": "object"}
        if isinstance(schema, str):
            return cls("json", schema, flexible)
        if isinstance(schema, type):
            if not hasattr(schema, "model_json_schema"):
                raise ConfigError(f"schema = {shown(schema)} cannot work. Give a schema, or a pydantic model class.")
            schema = schema.model_json_schema()
        return cls("json", _dumped(schema), flexible)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that matches a regular expression from its beginning to its end (the syntax of Rust's `regex`)."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Grammar:
        """One of several texts."""
        return cls("choice", _dumped(list(take("choices", choices, CHOICES))))

    @classmethod
    def ebnf(cls, grammar: str) -> Grammar:
        """A grammar in the form of llama.cpp's GBNF, which begins with the rule `root`."""
        return cls("ebnf", grammar)

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """A grammar in the form of Lark, as llguidance reads it, which begins with the rule `start`."""
        return cls("lark", grammar)

    def spelt(self, spelling: Spelling) -> Grammar:
        """The same grammar with forced text spelt otherwise; see the class."""
        return replace(self, spelling=spelling)

    @classmethod
    def written(cls, words: str) -> Grammar:
        """What a command line means: a JSON schema, a JSON list of choices, or `regex:…`, `ebnf:…`, `lark:…` with an
        expression or a grammar behind it.

        Raises:
            ConfigError: for anything else.
        """
        kind, colon, rest = words.partition(":")
        if colon and kind in ("regex", "ebnf", "lark"):
            return cls(kind, rest)  # type: ignore[arg-type]
        if words.lstrip()[:1] not in ("{", "["):
            raise ConfigError(
                f'grammar = {shown(words)} cannot be read. Give a JSON schema {{…}}, a list of choices ["…"], '
                "regex:…, ebnf:…, lark:…, or @FILE with one of them."
            )
        return cls.read(_parsed(words))

    @classmethod
    def read(cls, value: Any) -> Grammar:
        """What `SamplingParams(grammar=value)` means: a dict is a JSON schema, so is a pydantic model class, and a list
        of texts is a list of choices. Raises `Unfit` for anything else."""
        if isinstance(value, cls):
            return value
        schema = isinstance(value, Mapping) or (isinstance(value, type) and hasattr(value, "model_json_schema"))
        if not schema and (not isinstance(value, Sequence) or isinstance(value, str | bytes)):
            raise Unfit
        try:
            return cls.json(value) if schema else cls.choice(value)
        except ConfigError as error:
            raise ConfigError(f"grammar: {error}") from error


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{shown(value)} is not JSON: {error}. Give what json.dumps can write.") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{shown(text)} is not JSON: {error}. Give JSON text.") from error


def _check_depth(schema: Any) -> None:
    if not isinstance(schema, dict | bool):
        raise ConfigError(f"{shown(schema)} is not a JSON schema. Give an object.")
    level: list[Any] = [schema]
    for _ in range(DEEPEST):
        level = [below for each in level if isinstance(each, dict | list) for below in _items(each)]
    if level:
        raise ConfigError(f"A JSON schema of more than {DEEPEST} levels is too deep. Make it flatter, or use $ref.")


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
