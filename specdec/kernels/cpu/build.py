"""Compiles the kernels on this machine, for this machine, once."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from specdec.errors import SpecdecError
from specdec.kept import doubt, making, recall, store
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
    "checked": ("-march=x86-64-v3", "-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address",
                "-D_GLIBCXX_ASSERTIONS"),
}  # fmt: skip
"""Instruction sets to compile for. `native` is what this CPU has; the others are for comparing and testing. `checked`
ends the process at the first access beyond its memory; the process must preload the compiler's libasan."""
TIMEOUT = 900
"""Seconds; alone it takes about a minute."""


class BuildError(SpecdecError):
    """The kernels could not be compiled; says why."""


@dataclass(frozen=True)
class Built:
    """A compiled library.

    Args:
        code: the bytes of the file.
        path: where it is kept, or would be if it could.
        found: whether it was there already.
        compiler: what it calls itself; "" where there is none now.
    """

    code: bytes
    path: Path
    found: bool
    compiler: str = ""


def build(architecture: str = "native", folder: Path | None = None, anew: bool = False) -> Built:
    """The shared library, compiled unless the same sources, compiler and CPU have been seen before.

    Where nothing can be compiled, a kept one for these sources, flags and this CPU serves, whichever compiler made it.
    A kept one is used only if it is, byte for byte, what was written, and not if another user could have written it.

    Args:
        architecture: a name of `ARCHITECTURES`.
        folder: where to keep it; `cache_folder()` if left out.
        anew: compile, whatever is kept.

    Raises:
        BuildError: if there is no compiler, or it fails, and none is kept.
    """
    folder = folder or cache_folder()
    flags = (*FLAGS, *ARCHITECTURES[architecture])
    stem = f"kernels-{architecture}-{fingerprint(flags)}"
    try:
        compiler = find_compiler()
        told = _run([compiler, "--version"])
        version, name = hashlib.sha256(f"{compiler} {told}".encode()).hexdigest()[:8], told.partition("\n")[0]
        path = folder / f"{stem}-{version}.so"
        if not anew and (code := _kept(path)) is not None:
            return Built(code, path, found=True, compiler=name)
        code = _compiled(compiler, flags, path)
        store(path, code)
        return Built(code, path, found=False, compiler=name)
    except BuildError:
        for path in () if anew else sorted(folder.glob(f"{stem}-*.so")):
            if (code := _kept(path)) is not None:
                return Built(code, path, found=True)
        raise


def _kept(path: Path) -> bytes | None:
    """A library as it was written, if it is there and its file is this user's own, or the system's."""
    try:
        status = path.stat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
            doubt(path, "another user can have written it")
            return None
    except (OSError, AttributeError):  # not there; or a system that knows no owners
        pass
    found = recall(path)
    return None if found is None else found[0]


def _compiled(compiler: str, flags: tuple[str, ...], path: Path) -> bytes:
    """The bytes of a new library. Only a temporary folder is written to, or the one of `path`."""
    try:
        scratch: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory(prefix="specdec-")
    except OSError:
        scratch = making(path)
    try:
        with scratch as folder:
            made = Path(folder) / "kernels.so"
            _run([compiler, *flags, str(SOURCE), "-o", str(made)], TMPDIR=str(folder))
            return made.read_bytes()
    except OSError as error:
        raise BuildError(f"There is no folder to compile in: {error}. Set TMPDIR to one that has room.") from error


def _run(command: list[str], **environment: str) -> str:
    """What the command prints."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{command[0]} did not end within {TIMEOUT} s. Try again when the machine has less to do."
        ) from error
    except OSError as error:
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


def fingerprint(flags: tuple[str, ...] = FLAGS) -> str:
    """Changes with anything that a binary of the kernels depends on, but for the compiler: sources, flags, the CPU."""
    digest = hashlib.sha256("\0".join((*flags, cpu_description())).encode())
    for path in sorted([*KERNELS.rglob("*.h"), SOURCE]):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
