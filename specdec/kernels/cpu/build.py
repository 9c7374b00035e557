"""Compiles the kernels on this machine, for this machine, once."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from specdec.errors import SpecdecError
from specdec.paths import cache_dir

KERNELS = Path(__file__).parent.parent
SOURCE = Path(__file__).with_name("library.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-shared", "-fPIC",
         "-pthread", "-w")  # fmt: skip
ARCHITECTURES = {
    "native": ("-march=native",),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}
"""Instruction sets to compile for. `native` is what this CPU has; the others are for comparing and testing."""
TIMEOUT = 300


class BuildError(SpecdecError):
    """The kernels could not be compiled; says why."""


def build(architecture: str = "native", folder: Path | None = None) -> Path:
    """The shared library, compiled unless the same sources, compiler and CPU have been seen before.

    Args:
        architecture: a name of `ARCHITECTURES`.
        folder: where to keep it; `cache_folder()` if left out.

    Raises:
        BuildError: if there is no compiler, it fails, or the folder cannot be written.
    """
    compiler = find_compiler()
    flags = (*FLAGS, *ARCHITECTURES[architecture])
    folder = folder or cache_folder()
    target = folder / f"kernels-{architecture}-{_fingerprint(compiler, flags)}.so"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            _run([compiler, *flags, str(SOURCE), "-o", str(made)])
            made.replace(target)  # in one go: another process may be looking
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error}. Set XDG_CACHE_HOME to a folder that can.") from error
    return target


def _run(command: list[str]) -> str:
    """What the command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def find_compiler() -> str:
    """Path of the first C++ compiler found.

    Raises:
        BuildError: if there is none.
    """
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise BuildError(f"there is no C++ compiler (looked for {', '.join(COMPILERS)}). Install one, such as g++.")


def cache_folder() -> Path:
    """Folder of the compiled libraries."""
    return cache_dir() / "kernels"


@cache
def cpu_description() -> str:
    """Model and features: a library compiled for one CPU may not run on another that shares the folder."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.machine() + platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = info.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))


def _fingerprint(compiler: str, flags: tuple[str, ...]) -> str:
    """Changes with anything that the binary depends on."""
    digest = hashlib.sha256("\0".join((compiler, _run([compiler, "--version"]), *flags, cpu_description())).encode())
    for path in sorted([*KERNELS.rglob("*.h"), SOURCE]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
