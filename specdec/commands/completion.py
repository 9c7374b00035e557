"""Completes commands, keys and choices in a shell.

specdec completion bash > ~/.local/share/bash-completion/completions/specdec
specdec completion zsh >> ~/.zshrc      # behind compinit

The script holds all words, so that a shell never waits for Python: make it again after you install a method.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from specdec.commands.application import config_dir
from specdec.commands.settings import settings
from specdec.commands.table import COMMANDS
from specdec.study.config import PROGRAMS, register

SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
"""Shell → what comes before the script: zsh completes with bash's functions."""
OPTIONS = ("--help", "--multirun", "--cfg")
SCRIPT = """# Completes specdec's commands, keys and choices; made by `specdec completion`.
{before}_specdec() {{
    local line="${{COMP_LINE:0:$COMP_POINT}}"
    local rest="${{line#* }}" current="${{line##* }}" keys values="" word
    case "$rest" in
{cases}
    esac
    COMPREPLY=()
    [[ "$current" == *=* ]] && keys="$values"
    for word in $(compgen -W "$keys" -- "$current"); do
        [[ "$word" == *= ]] || word="$word "
        [[ "$COMP_WORDBREAKS" == *=* ]] && word="${{word#"${{current%"${{current##*=}}"}}"}}"
        COMPREPLY+=("$word")
    done
}}
complete -o default -o nospace -F _specdec specdec
"""


def main() -> None:
    """Prints the script for a shell; exit code 2 for one that it does not know."""
    words = sys.argv[1:]
    if words in (["-h"], ["--help"]):
        print((__doc__ or "").strip())
    elif len(words) == 1 and words[0] in SHELLS:
        print(script(words[0], dict(vocabulary(COMMANDS))), end="")
    else:
        print(f"specdec completion: give one shell, {' or '.join(SHELLS)}.", file=sys.stderr)
        sys.exit(2)


def script(shell: str, words: Mapping[str, Sequence[str]]) -> str:
    """What a shell sources.

    Args:
        shell: one of `SHELLS`.
        words: command, of one word or two → all that can follow it: `key=`, `key=value`, options.
    """
    lines = [_case(f"{command} ", found) for command, found in words.items()]
    firsts = {command.partition(" ")[0]: "" for command in words}
    for first in firsts:
        if seconds := [command.split()[1] for command in words if command.startswith(f"{first} ")]:
            lines.append(_case(f"{first} ", seconds))
    lines.append(_case("", [*firsts, "--help", "--version"]))
    return SCRIPT.format(before=SHELLS[shell], cases="\n".join(lines))


def _case(beginning: str, words: Sequence[str]) -> str:
    """What completes a line that begins so."""
    values = [word for word in words if "=" in word and not word.endswith("=")]
    keys = [word for word in words if word not in values]
    pattern = f'"{beginning}"*' if beginning else "*"
    return f"        {pattern}) keys='{' '.join(keys)}' values='{' '.join(values)}' ;;"


def vocabulary(commands: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each of these commands, with all that can follow it."""
    register()
    with initialize_config_dir(config_dir(), version_base=None):
        for command in commands:
            name = command.replace(" ", "_")
            yield command, list(_words(name)) if name in PROGRAMS else [*SHELLS] * (command == "completion")


def _words(name: str) -> Iterator[str]:
    """What can follow a command that takes settings."""
    yield from OPTIONS
    folder = Path(config_dir())
    config = compose(name, return_hydra_config=True)
    choices = {group: choice for group, choice in config.hydra.runtime.choices.items() if "/" not in group}
    keys = {}
    for setting in settings(config, folder, name, choices):
        keys[setting.key] = ["true", "false"] if setting.default in ("true", "false") else []
    for group in choices:
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        keys[group] = [option for option in options if not option.startswith("_")]
        keys |= {f"{group}.{option}": [] for option in _options(folder / group) if f"{group}.{option}" not in keys}
    for key, values in keys.items():
        yield from (f"{key}=", *(f"{key}={value}" for value in values))


def _options(group: Path) -> list[str]:
    """Of all choices of a group; files for the whole config, and Hydra's own words, are no options."""
    found: dict[str, None] = {}
    for file in sorted(group.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        if not text.startswith("# @package _global_"):
            found |= dict.fromkeys(yaml.safe_load(text) or {})
    return [option for option in found if option not in ("defaults", "_target_")]
