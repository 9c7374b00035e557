"""Completion: real shells, in a terminal of their own, are given half a command and a tab."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from specdec.commands.completion import SHELLS, script, vocabulary

START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
BEFORE = {"bash": "", "zsh": "autoload -Uz compinit && compinit -u -d /dev/null; "}
TYPED = {
    "gen\tdrafter=suf\tsampling.max_tok\t8": ["generate", "drafter=suffix", "sampling.max_tokens=8"],
    "stor\tsh\tfil\tx": ["store", "show", "file=x"],
    "certify qui\ttr\t": ["certify", "quick=true"],
    "generate drafter=model drafter.draf\tx": ["generate", "drafter=model", "drafter.draft=x"],
    "report ru\tx": ["report", "runs/x"],
    "comp\tba\t": ["completion", "bash"],
    "store zzz\t": ["store", "zzz"],
}
"""What a person types behind `specdec`, a tab where it is pressed → the words that the command gets."""
COMMANDS = ("generate", "store build", "store show", "report", "certify", "train", "completion")
"""The others' words are made in the same way."""


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    return dict(vocabulary(COMMANDS))


def typed(shell: str, source: str, folder: Path, lines: list[str]) -> list[list[str]]:
    """The words that a command named specdec got from each line."""
    (folder / "runs").mkdir()
    (folder / "script").write_text(source, encoding="utf-8")
    got = folder / "got"
    leader, follower = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "READY", "INPUTRC": "/dev/null"}
    process = subprocess.Popen(
        START[shell], stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=env, start_new_session=True
    )
    os.close(follower)
    stub = f"specdec() {{ printf '%s\\n' \"$@\" ---- >> {got}; }}; {BEFORE[shell]}source ./script"
    wait_for(leader, b"READY")
    for line in [stub, *(f"specdec {line}" for line in lines), "exit"]:
        os.write(leader, f"{line}\n".encode())
    wait_for(leader, None)
    process.wait(60)
    os.close(leader)
    return [part.split("\n")[:-1] for part in got.read_text(encoding="utf-8").split("----\n")[:-1]]


def wait_for(terminal: int, mark: bytes | None) -> None:
    """Reads until a mark has come, or to the end."""
    seen = b""
    while mark is None or mark not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux's way to say that nobody writes any more
            part = b""
        if not part:
            assert mark is None, seen
            return
        seen += part


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_keys_and_choices(shell: str, words: dict[str, list[str]], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    assert typed(shell, script(shell, words), tmp_path, list(TYPED)) == list(TYPED.values())


def test_a_command_has_its_keys_the_choices_of_its_groups_and_their_options(words: dict[str, list[str]]) -> None:
    assert {"drafter=", "drafter=ngram", "drafter.stages=", "rule=token", "sampling.top_p="} <= set(words["generate"])
    assert {"head.block_size=", "preset=tiny", "loop.bfloat16=true"} <= set(words["train"])
    assert words["completion"] == list(SHELLS)
    assert not any("_target_" in word or "None" in word for found in words.values() for word in found)
