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


def source(grammar: Grammar) -> str:
    """A grammar as llguidance reads it.

    Raises:
        InvalidRequestError: if it cannot be translated.
    """
    from llguidance import LLMatcher, regex_to_lark
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if grammar.kind == "json":
        separators: Any = None if grammar.flexible else SEPARATORS
        text = "{}" if json.loads(grammar.text) is True else grammar.text  # llguidance wants an object
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
