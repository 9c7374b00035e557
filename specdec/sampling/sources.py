"""The texts of grammars, as llguidance reads them."""

from __future__ import annotations

import json
import re
from typing import Any

from specdec.errors import InvalidRequestError
from specdec.foreign import foreign
from specdec.sampling.grammar import Grammar

SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
EVERY_SPELLING = '%llguidance {"no_forcing": true}\n'
"""Else where a text is forced one token alone may come, the first of those that its tokenizer makes of it."""


FORMATS = frozenset({
    "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri",
    "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer", "regex",
})  # fmt: skip
"""That JSON Schema defines (2020-12, Validation, section 7.3)."""
DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are not schemas."""


def source(grammar: Grammar) -> str:
    """A grammar as llguidance reads it.

    Raises:
        InvalidRequestError: if it cannot be translated.
    """
    from llguidance import LLMatcher, regex_to_lark
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if grammar.kind == "json":
        separators: Any = None if grammar.flexible else SEPARATORS
        text = _schema(grammar.text)
        with foreign(InvalidRequestError, "it cannot be read", "Correct it."):
            made = json.loads(LLMatcher.grammar_from_json_schema(text, overrides=separators))
        [schema] = made["grammars"]
        made["grammars"] = [{"lark_grammar": _spelt(grammar, "start: @schema")}, schema | {"name": "schema"}]
        return json.dumps(made)
    if grammar.kind == "regex":
        with foreign(InvalidRequestError, "it cannot be read", "Correct it."):
            lark = f"start: /{regex_to_lark(grammar.text)}/"
    elif grammar.kind == "choice":
        lark = "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in json.loads(grammar.text))
    elif grammar.kind == "ebnf":
        with foreign(InvalidRequestError, "it cannot be read", "Correct it."):
            lark = gbnf_to_lark(_with_characters(grammar.text))
    else:
        lark = grammar.text
    return _spelt(grammar, lark)


def _schema(text: str) -> str:
    """JSON of a schema as llguidance wants it: an object, without the formats of others. Those say nothing about what
    is valid, and no reader may stop at one (section 7.2.3), but llguidance does."""
    given = json.loads(text)
    kept = {} if given is True else _without_foreign_formats(given)
    return text if kept == given else json.dumps(kept, ensure_ascii=False)


def _without_foreign_formats(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_foreign_formats(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in DATA else _without_foreign_formats(value)
        for key, value in schema.items()
        if key != "format" or not isinstance(value, str) or value in FORMATS
    }


def _spelt(grammar: Grammar, lark: str) -> str:
    return lark if grammar.spelling == "canonical" else EVERY_SPELLING + lark


def _with_characters(ebnf: str) -> str:
    r"""Writes `\u0041` as the character itself, unless that has a meaning of its own: the reader below loses zeros."""

    def character(found: re.Match[str]) -> str:
        escaped = found.group()
        if escaped[1] not in "uU":
            return escaped
        made = chr(int(escaped[2:], 16))
        return made if made.isalnum() or ord(made) > 127 else f"\\x{ord(made):02X}"

    return re.sub(r"\\(?:u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", character, ebnf, flags=re.DOTALL)
