"""What is noted of a run's surroundings."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from specdec.kept import unseal
from specdec.kernels.cpu.build import cache_folder
from specdec.measure.environment import command, environment


@pytest.mark.parametrize("module", [None, "benchmarks.decode"])
def test_a_command_can_be_given_again(module: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's own commands stand in argv[0], after the program's name, however they were started."""
    words = ["-m", "study=it's 5, γ", "drafter=none,ngram"]
    monkeypatch.setattr(sys, "argv", ["specdec study", *words])
    assert shlex.split(command(module)) == ["specdec", "study", *words]


def test_a_programs_own_name_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/decode.py", "rows=3", "json=/some/where/x.json"])
    assert shlex.split(command("benchmarks.decode")) == ["python", "-m", "benchmarks.decode", "rows=3", "json=x.json"]


def test_a_pasteable_command_keeps_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones, and without the name of a home folder; specdec itself fills in `~`."""
    home, here = tmp_path / "home", tmp_path / "home" / "project"
    here.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    words = [
        f"data.path={here}/data/x.jsonl",
        f"target.path={home}/model",
        "runs=/elsewhere/runs",
        f"drafter.store={here}",
    ]
    monkeypatch.setattr(sys, "argv", ["specdec study", *words])
    told = ["data.path=data/x.jsonl", "target.path=~/model", "runs=/elsewhere/runs", "drafter.store=."]
    assert shlex.split(command(pasteable=True)) == ["specdec", "study", *told]


def test_the_environment_keeps_what_pip_lists_the_load_and_the_build_of_the_kernels() -> None:
    told = environment()
    listed = subprocess.run([sys.executable, "-m", "pip", "list", "--format=json"], capture_output=True, check=False)
    if listed.returncode == 0:
        known = {re.sub(r"[-_.]+", "-", one["name"].lower()): one["version"] for one in json.loads(listed.stdout)}
        kept = {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in told["packages"].items()}
        assert kept == known
    assert told["packages"]["torch"] == told["versions"]["torch"] == torch.__version__
    assert told["load"] is None or 0 <= told["load"] < 10_000
    kernels = told["kernels"]
    if "missing" not in kernels:
        [file] = cache_folder().glob(f"{kernels['name']}*.so")
        assert hashlib.sha256(unseal(file.read_bytes())[0]).hexdigest() == kernels["sha256"]


def test_what_a_parent_holds_is_no_memory_of_ours() -> None:
    held = bytearray(b"x") * (2 << 30)
    program = "from specdec.measure.summary import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < len(held)
