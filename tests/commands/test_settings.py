"""--help: every setting is there with its default, and something says what it does."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from specdec import cli
from specdec.commands.application import config_dir
from specdec.commands.settings import Setting, comments, described, listing, settings
from specdec.study.config import PROGRAMS, register

CONFIGS = Path(config_dir())
DRAFTERS = sorted(path.stem for path in (CONFIGS / "drafter").glob("*.yaml"))


@cache
def found(name: str, *words: str) -> dict[str, Setting]:
    register()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        config = compose(name, list(words), return_hydra_config=True)
    return {one.key: one for one in settings(config, CONFIGS, name, config.hydra.runtime.choices)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_setting_of_a_command_is_described(name: str) -> None:
    assert [key for key, one in found(name).items() if not one.text] == []


@pytest.mark.parametrize("name", DRAFTERS)
def test_every_option_of_a_drafter_is_described(name: str) -> None:
    config = OmegaConf.load(CONFIGS / "drafter" / f"{name}.yaml")
    said = described(config) | comments(CONFIGS / "drafter" / f"{name}.yaml")
    assert [option for option in config if option != "_target_" and option not in said] == []


@pytest.mark.parametrize(
    ("name", "key", "default", "part"),
    [
        ("generate", "sampling.max_tokens", "128", "most tokens"),  # of a docstring
        ("generate", "drafter.num_draft_tokens", "5", "γ"),  # of the drafter's class
        ("generate", "precision.smoothing", "0.5", "SmoothQuant"),  # a comment in _base.yaml
        ("generate", "prompt", "null", "your prompt, @FILE"),  # a comment of the command's own file
        ("generate", "sampling.stop", "[]", "strings that end the output"),
        ("study", "trace.top_k", "64", "tokens kept of each row"),  # a comment of a part
        ("study", "note", "''", "a note for readers"),
        ("replay", "trace", "???", "trace.safetensors"),
        ("certify", "quick", "false", "leave out the larger settings"),
    ],
)
def test_a_setting_has_its_default_and_what_it_does(name: str, key: str, default: str, part: str) -> None:
    one = found(name)[key]
    assert one.default == default
    assert part in one.text


def test_a_class_that_must_be_given_is_a_setting_and_any_other_is_not() -> None:
    assert found("generate", "drafter=custom")["drafter._target_"].default == "???"
    assert "drafter._target_" not in found("generate")


def test_comments_stand_under_their_part(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "a: 1  # first\nb: '#no'\npart:\n  a: 2   # inner\n# alone\nc: [1]  # last # one\n", encoding="utf-8"
    )
    assert comments(file) == {"a": "first", "part.a": "inner", "c": "last # one"}
    assert comments(tmp_path / "none.yaml") == {}


def test_lines_are_as_wide_as_the_terminal_and_a_long_setting_has_its_own() -> None:
    lines = listing([Setting("a", "1", "what " * 20), Setting("b" * 40, "2", "it does")], 80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("a=1 ")
    assert lines[-2:] == ["b" * 40 + "=2", " " * 40 + "it does"]


def test_help_shows_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["specdec", "store", "build", "texts=x", "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("specdec store build [key=value ...]")
    assert "\ntexts=x " in printed
    assert "data=demo" in printed
