"""The command line: every config composes, errors are one line, and the main job ends in its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir

from specdec import cli
from specdec.commands.application import config_dir
from specdec.commands.table import COMMANDS
from specdec.drafters.base import Drafter
from specdec.study.config import register
from specdec.study.plan import plan

pytestmark = pytest.mark.fewer(2)

ROOT = Path(__file__).parent.parent
GROUPS = {group: sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml")) for group in ("drafter", "sampling")}

REQUIRED = {name: ["drafter.draft=x"] for name in ("model", "tli", "slem")} | {
    "custom": ["drafter._target_=tests.engines.NonsenseDrafter"]
}


def command(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name", GROUPS["drafter"])
def test_every_drafter_config_makes_its_drafter(name: str) -> None:
    register()
    with initialize_config_dir(config_dir(), version_base=None):
        config = compose("generate", [f"drafter={name}", *REQUIRED.get(name, [])])
    drafter = hydra.utils.instantiate(config.drafter)
    assert isinstance(drafter, Drafter)
    assert drafter.name == {"custom": "nonsense"}.get(name, name)


@pytest.mark.parametrize("name", GROUPS["sampling"])
def test_every_sampling_config_makes_its_parameters(name: str) -> None:
    register()
    with initialize_config_dir(config_dir(), version_base=None):
        job = plan(compose("generate", [f"sampling={name}"]))
    assert job.params.greedy == (name == "greedy")
    assert job.policy.name == "product"


@pytest.mark.slow
@pytest.mark.xdist_group("real model")
def test_the_main_job_streams_compares_and_leaves_no_files(tmp_path: Path) -> None:
    done = command(
        "-m", "specdec", "generate", "sampling.max_tokens=8", "prompt='1 2 3 1 2 3 1 2'", "chat=false",
        "device.threads=1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " 3 1 2 3" in done.stdout
    for row in ("tokens/s plain", "τ", "α at position 5", "time: verify"):
        assert row in done.stdout
    assert re.search(r"identical output +yes", done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.temperature=-1", "temperature = -1.0 cannot work"),
        ("drafter.num_draft_tokens=0", "num_draft_tokens = 0 cannot work"),
        ("rule=nonesuch", "Available options in 'rule'"),
        ("data.pth=x", "Did you mean data.path?"),
        ("sampling.grammar=yes", "Give a JSON schema"),
        ('sampling.grammar={"type":', "is not JSON"),
        ("sampling.grammar=[]", "at least one non-empty text"),
        ("sampling.grammar=@nowhere.json", "nowhere.json"),
    ],
)
def test_what_cannot_work_is_one_line_on_stderr(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", override], monkeypatch) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=nowhere.jsonl", "no prompt file at nowhere.jsonl"),
        ("target.path=nowhere", "'nowhere' from the hub"),
        ("sampling.grammar=regex:(", "unclosed group"),
    ],
)
def test_what_turns_out_later_is_one_line_too(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", override], monkeypatch) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specdec: ")]
    assert message in line


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `specdec <words>`, in this process."""
    monkeypatch.setattr(sys, "argv", ["specdec", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_the_console_script_lists_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in ((["--help"], 0), ([], 2)):
        assert run(words, monkeypatch) == code
        printed = capsys.readouterr().out
        assert f"usage: specdec {{{','.join(COMMANDS)}}}" in printed
        assert all(f"  {name} " in printed and says in printed for name, (_, says) in COMMANDS.items())


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_that_of_the_package(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word], monkeypatch) == 0
    [stated] = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert capsys.readouterr().out == f"specdec {stated}\n"


@pytest.mark.parametrize("command", ["doctor", "completion"])
def test_a_command_without_settings_has_help_and_refuses_words(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(COMMANDS[command][0])
    monkeypatch.setattr(sys, "argv", ["specdec", command, "--help"])
    cli.main()
    assert capsys.readouterr().out.strip() == (module.__doc__ or "").strip()
    assert run([command, "fish"], monkeypatch) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"specdec {command}: ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("generat", "generate"),
        ("certifies", "certify"),
        ("benchmarks", "study"),
        ("store", "store show"),
        ("layers", "layers search"),
        ("zzz", None),
    ],
)
def test_an_unknown_command_is_answered_with_those_there_are(
    word: str, meant: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word], monkeypatch) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"specdec: unknown command '{word}'. ")
    assert line.endswith(f"Valid commands: {', '.join(COMMANDS)}.")
    assert ("Did you mean" in line) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certify", "quik=true"], "Did you mean quick?"),
        (["certify", "rules=[tokn]"], "Unknown rule 'tokn'. Valid names: "),
        (["certify", "rules=token"], "a list is asked for. Write rules=[token]."),
        (["replay"], "Nothing was given for trace."),
        (["generate", "data.categories=summary"], "a list is asked for. Write [summary]."),
        (["replay", "trace=nowhere"], "nowhere"),
        (["profile", "precisons=[int8]"], "Did you mean precisions?"),
        (["layers", "search", "trial=3"], "Did you mean trials?"),
        (["layers", "search", "sampling=sample"], "answers are the target's greedy ones"),
        (["layers", "search", "trials=0"], "trials = 0 cannot work"),
        (["report"], "Nothing was given for study."),
        (["report", "nowhere"], "No run folders in nowhere."),
        (["report", "nowhere", "screenshot=x"], "Did you mean screenshots?"),
    ],
)
def test_every_command_takes_keys_and_answers_a_wrong_one_in_a_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words, monkeypatch) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_command_whose_packages_are_missing_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "specdec.commands.application")
    monkeypatch.delitem(sys.modules, "specdec.commands.certify", raising=False)
    assert run(["certify"], monkeypatch) == 2
    line = "specdec certify: hydra is not installed. Run `pip install 'specdec-lab[studies]'`.\n"
    assert capsys.readouterr().err == line


def test_the_old_word_for_a_study_is_understood_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["benchmark", "batchs=2"], monkeypatch) == 2
    note, refusal = capsys.readouterr().err.strip().splitlines()
    assert note == "specdec: 'benchmark' is called 'study' now."
    assert "Did you mean batch?" in refusal


def test_the_package_gives_what_it_names_and_loads_torch_only_for_it() -> None:
    code = (
        "import sys, specdec, specdec.cli\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "assert set(specdec.__all__) <= set(dir(specdec))\n"
        "from specdec import *\n"
        "assert {name for name in specdec.__all__ if name in globals()} == set(specdec.__all__)\n"
        "assert SpeculativeGenerator.__module__ == 'specdec.generator'\n"
        "try: specdec.Generator\n"
        "except AttributeError as error: assert 'Generator' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
