"""The command line: every config composes, errors are one line, and the main job ends in its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir

from specdec.cli import config_dir
from specdec.drafters.base import Drafter
from specdec.study.config import register
from specdec.study.plan import plan

ROOT = Path(__file__).parent.parent
GROUPS = {group: sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml")) for group in ("drafter", "sampling")}

REQUIRED = {"model": ["drafter.draft=x"], "custom": ["drafter._target_=tests.engines.NonsenseDrafter"]}


def command(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


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
        made = plan(compose("generate", [f"sampling={name}"]))
    assert made.params.greedy == (name == "greedy")
    assert made.engine.adaptive


@pytest.mark.xdist_group("real model")
def test_the_main_job_streams_compares_and_leaves_no_files(tmp_path: Path) -> None:
    done = command(
        "-m", "specdec", "generate", "sampling.max_tokens=8", "prompt='1 2 3 1 2 3 1 2'", "chat=false",
        "device.threads=1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " 3 1 2 3" in done.stdout
    for row in ("tokens/s plain", "τ", "α at position 5", "time: verify", "identical output"):
        assert row in done.stdout
    assert "1/1" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.temperature=-1", "temperature = -1.0 cannot work"),
        ("data.path=nowhere.jsonl", "no prompt file at nowhere.jsonl"),
        ("target.path=nowhere", "Cannot load 'nowhere'"),
        ("drafter.num_draft_tokens=0", "num_draft_tokens=0 must be at least 1"),
        ("rule=nonesuch", "Available options in 'rule'"),
        ("data.pth=x", "Did you mean data.path?"),
    ],
)
def test_a_wrong_setting_is_one_line_on_stderr(override: str, message: str) -> None:
    done = command("-m", "specdec", "generate", override)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_console_script_lists_its_commands() -> None:
    assert "usage: specdec {generate,benchmark,doctor}" in command("-m", "specdec", "--help").stdout
    assert command("-m", "specdec").returncode == 2
