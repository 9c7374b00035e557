"""The words of a command line as Hydra reads them: what a person typed as text stays text.

Hydra parses every value by a grammar, and OmegaConf looks for `${…}` in what is left. So the values of settings that
hold text, paths or names (`specdec.typed`) are put into quotes and escaped before Hydra sees them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from specdec.errors import ConfigError
from specdec.prompts.files import read_text
from specdec.study.plan import escaped
from specdec.typed import Typed

KEY = re.compile(r"[+~]{0,2}[A-Za-z_$][\w$.@:/-]*=")
"""Begins a word that gives a setting."""
HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Hydra's own paths: they are quoted too, but may hold `${…}`."""


@dataclass(frozen=True)
class Words:
    """A command line, sorted.

    Args:
        options: words for Hydra's own options, with their values.
        settings: words `key=value`.
        bare: words without a key.
    """

    options: list[str]
    settings: list[str]
    bare: list[str]

    @property
    def multirun(self) -> bool:
        """Whether the command is a sweep."""
        return not {"-m", "--multirun"}.isdisjoint(self.options) or "hydra.mode=MULTIRUN" in self.settings


def sort_words(words: Sequence[str]) -> Words:
    """Tells options, settings and bare words apart; behind `--` every word is bare.

    Raises:
        ConfigError: for a word that is not UTF-8, or that begins with a dash and is no option.
    """
    sorted_ = Words([], [], [])
    takes_value = _options()
    left = list(words)
    while left:
        word = left.pop(0)
        _check_encoding(word)
        if word == "--":
            sorted_.bare.extend(left)
            break
        if word in takes_value:
            sorted_.options.append(word)
            if takes_value[word] and left:
                sorted_.options.append(left.pop(0))
        elif word.startswith("-") and len(word) > 1:
            sorted_.options.append(_checked_option(word, takes_value))
        elif KEY.match(word):
            sorted_.settings.append(word)
        else:
            sorted_.bare.append(word)
    return sorted_


def quoted(words: Words, typed: Mapping[str, Typed], bare: str | None, second: str | None = None) -> list[str]:
    """The settings for Hydra.

    Args:
        words: of the command line.
        typed: settings whose values are taken as typed.
        bare: the setting that a bare word is the value of, if there is one.
        second: the setting that the second of two bare words is the value of, if there is one.

    Raises:
        ConfigError: for a bare word that means nothing, a typed setting that is given twice, or a file that cannot be
            read.
    """
    for word in words.bare if bare is None else ():
        raise ConfigError(f"{word!r} has no key. Write key=value; --help lists the keys.")
    keys = (bare, second) if second is not None and len(words.bare) == 2 else (bare,) * len(words.bare)
    settings = [*words.settings, *(f"{key}={word}" for key, word in zip(keys, words.bare, strict=True))]
    given: dict[str, str] = {}
    result = []
    for word in settings:
        prefix, key, value = _parts(word)
        if key in HYDRA_FOLDERS:
            word = f"{prefix}{key}={in_quotes(_at_home(value))}"
        elif key in typed and not prefix.startswith("~"):
            if key in given:
                raise ConfigError(f"{key} is given twice: {given[key]!r} and {value!r}. {_one_word(key, bare)}")
            given[key] = value
            word = f"{prefix}{key}={_typed_value(word, value, typed[key], words.multirun)}"
        result.append(word)
    return result


def literal(text: str) -> str:
    """A text in Hydra's grammar: quoted, and without interpolation."""
    if text == "???":  # OmegaConf's mark for a value that is missing
        return "${as_typed:}"
    return in_quotes(escaped(text))


def in_quotes(text: str) -> str:
    """A text in Hydra's grammar, which may hold interpolation."""
    return str(QuotedString(text, Quote.single).with_quotes())


def _typed_value(word: str, value: str, mark: Typed, multirun: bool) -> str:
    if multirun and value.startswith("choice(") and value.endswith(")"):
        return f"choice({','.join(_meant(word, element, mark) for element in _elements(word))})"
    return _meant(word, value, mark)


def _meant(word: str, value: str, mark: Typed) -> str:
    """What a typed value of a word `key=…` stands for, for Hydra."""
    if mark.kind == "path":
        return "null" if value == "null" else literal(_at_home(value))
    if mark.kind == "text" and value == "-":
        return literal(_standard_input())
    if mark.kind == "text" and value.startswith("@@"):
        return literal(value[1:])
    if mark.kind == "text" and value.startswith("@"):
        return literal(_text(read_text(Path(_at_home(value[1:])), f"{word.partition('=')[0]}=@FILE")))
    return literal(value)


def _elements(word: str) -> Iterable[str]:
    """Of `key=choice(…)`."""
    try:
        sweep = OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        raise ConfigError(f"{word} cannot be read: {error}. Quote each text in it: choice('a, b','c').") from error
    if not isinstance(sweep, ChoiceSweep):
        raise ConfigError(f"{word} is not a choice. Write choice('a','b').")
    return [element.text if isinstance(element, QuotedString) else str(element) for element in sweep.list]


def _parts(word: str) -> tuple[str, str, str]:
    """Prefix (+, ++, ~ or nothing), key and value."""
    key, _, value = word.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)], name, value


def _at_home(path: str) -> str:
    return os.path.expanduser(path) if path.startswith("~") else path


def _standard_input() -> str:
    """All of it."""
    if sys.stdin is None:
        raise ConfigError("prompt=- reads the standard input, and that is closed. Give prompt=TEXT or prompt=@FILE.")
    try:
        data = sys.stdin.buffer.read()
        return _text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"The standard input is not UTF-8: {error}. Convert it.") from error


def _text(content: str) -> str:
    """Without the line end that closes a file."""
    return content.removesuffix("\n").removesuffix("\r")


def _check_encoding(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = word.encode(errors="backslashreplace").decode()
        raise ConfigError(f"The word {shown!r} is not UTF-8. Convert it.") from None


def _options() -> dict[str, bool]:
    """Hydra's options → whether the next word is their value."""
    actions = get_args_parser()._actions
    return {option: action.nargs != 0 for action in actions for option in action.option_strings}


def _checked_option(word: str, options: Mapping[str, bool]) -> str:
    """An option together with its value (`--cfg=job`, `-cjob`), or shortened, as argparse takes them."""
    name, equals, _ = word.partition("=")
    long = name.startswith("--") and any(option.startswith(name) for option in options)
    joined = not name.startswith("--") and options.get(word[:2], False) and " " not in word
    if long or joined or (equals and name in options):
        return word
    raise ConfigError(
        f"There is no option {word!r}. --help lists the settings. A text that begins with a dash follows its key "
        "(prompt=-…) or stands behind --."
    )


def _one_word(key: str, bare: str | None) -> str:
    return f"Put quotes around a {key} of several words." if key == bare else "Give it once."
