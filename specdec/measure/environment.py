"""What a figure was measured on, and by which code."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import torch
import transformers

from specdec.kernels.cpu.build import BuildError, build

PACKAGES = ("specdec-lab", "torch", "triton", "transformers", "hydra-core", "numpy")
"""Whose versions a page shows; a run keeps all."""


def cpu_name() -> str:
    """The processor's own name, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> str:
    """One line: processor, threads, versions."""
    return (
        f"{cpu_name()}, {torch.get_num_threads()} torch threads of {os.cpu_count()} CPUs; Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )


def environment(side_by_side: bool = False) -> dict[str, Any]:
    """What a run folder keeps of the machine and the code.

    Args:
        side_by_side: whether other jobs of the same study run at the same time, so that wall-clock is no evidence.
    """
    return {
        "machine": machine(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "load": load(),
        "kernels": kernels(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "packages": packages(),
        "git": git_state(Path.cwd()),
        "command": command(pasteable=True),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "side_by_side": side_by_side,
    }


@cache
def packages() -> dict[str, str]:
    """Every installed package and its version, by name; read once, since every job of a sweep asks."""
    found = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def load() -> float | None:
    """How many processes ran or waited for a processor, as the system's mean of the last minute; None where it does
    not count them."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


@cache
def kernels() -> dict[str, str]:
    """Which build of the native kernels serves: its name, digest and compiler, or why there is none; found out once."""
    try:
        built = build()
    except BuildError as error:
        return {"missing": str(error)}
    return {"name": built.path.stem, "sha256": hashlib.sha256(built.code).hexdigest(), "compiler": built.compiler}


def command(module: str | None = None, pasteable: bool = False) -> str:
    """This process's command line.

    Args:
        module: what was run with `python -m`; found out if left out.
        pasteable: keep folders, so that it works again in the same folder: below that one they are relative, below the
            home folder they begin with `~`. Otherwise only names of files are kept, for documents.
    """
    main = sys.modules["__main__"].__spec__
    if module is None and main is not None:
        module = main.name.removesuffix(".__main__")
    if sys.argv[0].startswith("specdec "):  # the command line put its command there
        program = sys.argv[0].split()
    else:
        program = [Path(sys.argv[0]).name] if module is None else ["python", "-m", module]
    return shlex.join([*program, *map(_with_short_folder if pasteable else _without_folder, sys.argv[1:])])


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None outside of a repository or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _without_folder(word: str) -> str:
    """`key=/some/folder/file` → `key=file`."""
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name if Path(value).is_absolute() or value.startswith('..') else value}"


def _with_short_folder(word: str) -> str:
    """`key=/home/me/folder/file` → `key=~/folder/file`, or `key=folder/file` below the current folder."""
    key, equals, value = word.rpartition("=")
    path = Path(value)
    for above, shown in ((Path.cwd(), "."), (Path.home(), "~")):
        if path.is_absolute() and path.is_relative_to(above):
            return f"{key}{equals}{Path(shown) / path.relative_to(above)}"
    return word


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
