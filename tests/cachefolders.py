"""Cache folders in which nothing can be kept, and entries that something happened to."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def below_a_file(root: Path) -> Path:
    """As when $XDG_CACHE_HOME names a file; unlike a missing permission it stops root as well."""
    (root / "file").write_text("in the way")
    return root / "file" / "cache"


def of_the_kernel(root: Path) -> Path:
    """A file system that takes no files from anyone."""
    return Path("/proc/self") / root.name


def through_a_loop(root: Path) -> Path:
    (root / "loop").symlink_to(root / "loop")
    return root / "loop" / "cache"


def with_a_name_too_long(root: Path) -> Path:
    return root / ("x" * 300)


UNWRITABLE: dict[str, Callable[[Path], Path]] = {
    "below a file": below_a_file,
    "in /proc": of_the_kernel,
    "a loop of links": through_a_loop,
    "a name too long": with_a_name_too_long,
}
unwritable = pytest.mark.parametrize("make_folder", UNWRITABLE.values(), ids=UNWRITABLE)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Inside, no file can grow beyond `size` bytes, as on a disk that is full or where a quota is used up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip(path: Path, at: float) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def half_zeroed(path: Path) -> None:
    """As a file system leaves it that lost its power."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "the last bytes missing": lambda path: os.truncate(path, path.stat().st_size - 2),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "the second half zeroed": half_zeroed,
    "junk": lambda path: path.write_bytes(os.urandom(5000)),
    "JSON of someone else": lambda path: path.write_text('{"rows": [1, 2]}\n'),
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "a folder": lambda path: instead(path, Path.mkdir),
    "a pipe": lambda path: instead(path, os.mkfifo),
    "a bit near the front": lambda path: flip(path, 0.02),
    "a bit in the middle": lambda path: flip(path, 0.5),
    "a bit near the end": lambda path: flip(path, 0.98),
}
"""What may happen to a file between two runs."""
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
