"""What --help says of a setting: its default, and what it does.

Nothing is written twice. What a setting does is the comment beside it in configs/, or else its entry under "Args:" in
the docstring of what takes it: the class that `_target_` names, or the source of the schema.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

COMMENTED = re.compile(r"(?P<indent> *)(?P<key>\w+):.*?\s#\s+(?P<comment>.*)")
"""A line of a config file whose key has a comment."""
OPENED = re.compile(r"(?P<key>\w+):\s*(#.*)?")
"""A line after which the keys of a part follow."""
ENTRY = re.compile(r" {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*)")
"""An entry under "Args:"."""
COLUMN = 38
"""Most characters of a setting that has its description beside it."""


@dataclass(frozen=True)
class Setting:
    """One setting of a command.

    Args:
        key: with its part, such as `sampling.max_tokens`.
        default: as it is typed.
        text: what it does; empty if nothing says so.
    """

    key: str
    default: str
    text: str


def register_help(folder: str) -> None:
    """Makes known to Hydra what the template of --help holds: `${program:}`, the running command, and `${settings:}`.

    Args:
        folder: of the configs.
    """

    def lines(_root_: DictConfig) -> str:
        hydra = HydraConfig.get()
        found = settings(_root_, Path(folder), hydra.job.config_name, hydra.runtime.choices)
        return listing(found, shutil.get_terminal_size((120, 24)).columns).replace("$", "$$")  # it fills a template

    OmegaConf.register_new_resolver(
        "program", lambda: HydraConfig.get().job.config_name.replace("_", " "), replace=True
    )
    OmegaConf.register_new_resolver("settings", lines, replace=True)


def settings(config: DictConfig, folder: Path, name: str, choices: Mapping[str, str | None]) -> list[Setting]:
    """All settings of a command, in the order of its config.

    Args:
        config: composed.
        folder: of the configs.
        name: of the primary config.
        choices: group → the choice in it.
    """
    own = comments(folder / f"{name}.yaml")
    found = []
    for key in (str(key) for key in config if key != "hydra"):
        part = config._get_node(key)
        if not isinstance(part, DictConfig) or not len(part):
            found.append(Setting(key, _typed(_plain(config, key)), own.get(key, "")))
            continue
        said = described(part)
        for file in ("_base", choices.get(key)):
            said |= comments(folder / key / f"{file}.yaml")
        for option in map(str, part):
            if option != "_target_" or OmegaConf.is_missing(part, option):
                full = f"{key}.{option}"
                text = own.get(full) or said.get(option, "its class" if option == "_target_" else "")
                found.append(Setting(full, _typed(_plain(part, option)), text))
    return found


def comments(file: Path) -> dict[str, str]:
    """Key → the comment beside it in a config file; keys of a part have its name in front. None without a file."""
    found: dict[str, str] = {}
    part = ""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        if opened := OPENED.fullmatch(line):
            part = opened["key"]
        if commented := COMMENTED.fullmatch(line):
            found[f"{part}.{commented['key']}" if commented["indent"] else commented["key"]] = commented["comment"]
    return found


def described(part: DictConfig) -> dict[str, str]:
    """Option → what the docstring of the class or function that takes it says; its base classes' too."""
    target = part.get("_target_") if not OmegaConf.is_missing(part, "_target_") else None
    takes = get_object(target) if target else OmegaConf.get_type(part)
    classes = reversed(inspect.getmro(takes)) if inspect.isclass(takes) else (takes,)
    return {name: text for one in classes for name, text in arguments(one.__doc__ or "")}


def arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of each entry under "Args:".

    >>> list(arguments("Sizes.\\n\\n    Args:\\n        a, b: counts; None is\\n            all.\\n    "))
    [('a', 'counts; null is all.'), ('b', 'counts; null is all.')]
    """
    _, _, below = inspect.cleandoc(docstring).partition("Args:\n")
    section = re.split(r"\n(?=\S)", below, maxsplit=1)[0]
    for entry in re.split(r"\n(?= {4}\S)", section):
        if match := ENTRY.match(entry):
            text = " ".join(f"{match['text']} {entry[match.end() :]}".split())
            yield from ((name, re.sub(r"\bNone\b", "null", text)) for name in match["names"].split(", "))


def listing(found: list[Setting], width: int) -> str:
    """Settings in one column, what they do in the next; a long setting has a line of its own."""
    lines = []
    for one in found:
        left = f"{one.key}={one.default}"
        text = textwrap.wrap(one.text, max(width - COLUMN - 2, 30)) or [""]
        head, rest = ([left], text) if len(left) > COLUMN else ([f"{left:<{COLUMN}}  {text[0]}".rstrip()], text[1:])
        lines += [*head, *(f"{'':<{COLUMN}}  {line}" for line in rest if line)]
    return "\n".join(lines)


def _plain(config: DictConfig, key: str) -> Any:
    """A value as it stands in the config."""
    node = config._get_node(key)
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()  # type: ignore[union-attr]


def _typed(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_typed(each)}' for key, each in value.items())}}}"
    return (value or "''") if isinstance(value, str) else json.dumps(value)
