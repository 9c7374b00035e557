"""Completion: a real bash runs the script's function on half a command."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from specdec.commands.completion import SHELLS, script, vocabulary

TYPED = {
    "gen": ["generate "],
    "generate drafter=suf": ["suffix "],
    "generate sampling.max_tok": ["sampling.max_tokens="],
    "stor": ["store "],
    "store sh": ["show "],
    "store show fil": ["file="],
    "certify qui": ["quick="],
    "certify quick=tr": ["true "],
    "generate drafter=model drafter.draf": ["drafter.draft="],
    "report ru": [],
    "completion ba": ["bash "],
    "store zzz": [],
}
"""What stands behind `specdec ` when a tab is pressed → what may stand there instead of its last word. Behind a `=`, at
which bash parts words, only the value is given. Where there is nothing, bash looks for files."""
COMMANDS = ("generate", "store build", "store show", "report", "certify", "train", "completion")
"""The others' words are made in the same way."""


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    return dict(vocabulary(COMMANDS))


def test_bash_completes_commands_keys_and_choices(words: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("bash", words), encoding="utf-8")
    asked = ["source ./script", "complete -p specdec > /dev/null || exit 1"]
    for line in TYPED:
        whole = f"specdec {line}"
        asked.append(f"COMP_LINE={shlex.quote(whole)} COMP_POINT={len(whole)}; _specdec")
        asked.append('echo "${#COMPREPLY[@]}"; for word in "${COMPREPLY[@]}"; do echo "$word"; done')
    command = ["bash", "--norc", "--noprofile", "-c", "\n".join(asked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    lines = iter(done.stdout.splitlines())
    found = {line: [next(lines) for _ in range(int(next(lines)))] for line in TYPED}
    assert found == TYPED
    assert done.stderr == ""


def test_zsh_completes_with_the_same_function(words: dict[str, list[str]]) -> None:
    first, rest = script("zsh", words).split("bashcompinit\n", 1)
    assert "autoload" in first
    assert rest.partition("_specdec()")[2] == script("bash", words).partition("_specdec()")[2]


def test_a_command_has_its_keys_the_choices_of_its_groups_and_their_options(words: dict[str, list[str]]) -> None:
    assert {"drafter=", "drafter=ngram", "drafter.stages=", "rule=token", "sampling.top_p="} <= set(words["generate"])
    assert {"head.block_size=", "preset=tiny", "loop.bfloat16=true"} <= set(words["train"])
    assert words["completion"] == list(SHELLS)
    assert not any("_target_" in word or "None" in word for found in words.values() for word in found)
