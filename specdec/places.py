"""Files and folders that a person names: what is missing; writing all or nothing; one writer at a time."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import platform
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from specdec.errors import ConfigError


class UnwritableError(ConfigError):
    """A file or folder that cannot be written: full, read-only, or in the way."""


class BusyError(ConfigError):
    """Another process holds a place; says which."""


def missing(path: str | Path) -> str:
    """Why there is no file at `path`, in sentences: the nearest folder that exists, and a file of a similar name."""
    path = Path(os.path.abspath(path))
    if path.is_dir():
        return f"{path} is a folder."
    if path.exists():
        return f"{path} is no regular file."
    quotes = "The quotes are part of the path: leave them out. " if {path.name[-1:], path.name[:1]} & {"'", '"'} else ""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    with suppress(OSError):
        wanted = path.relative_to(folder).parts[0]
        close = difflib.get_close_matches(wanted, os.listdir(folder), n=1)
        quotes += f"Did you mean {folder / close[0]}? " if close else ""
    return f"{quotes}The nearest folder that exists is {folder}."


def is_file(path: Path) -> bool:
    """Whether it is a regular file: no folder, no pipe that a reader would wait for."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


@contextmanager
def writing(path: Path, what: str = "Give another place, or make room.") -> Iterator[None]:
    """Errors of the system in the block are raised as ours.

    Raises:
        UnwritableError: names the path and the system's words.
    """
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"Cannot write {path}: {error.strerror or error}. {what}") from error


def check_writable(setting: str, path: str | Path | None) -> None:
    """Raises ConfigError if a file could not be written at the end of what a command does; None is fine."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"{setting}={str(path)!r} is a folder. Give a file in it.")
    check_folder(setting, target.parent)
    if target.exists() and not os.access(target, os.W_OK):
        raise ConfigError(f"{setting}={str(path)!r} may not be written. Give another file.")


def check_folder(setting: str, folder: str | Path) -> None:
    """Raises ConfigError if no file could be made in a folder, which need not exist yet."""
    whole = Path(os.path.abspath(folder))
    there = next(place for place in (whole, *whole.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ConfigError(f"{setting}: {there} is not a folder. Give another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}: nothing may be written in {there}. Give another place.")


def write(path: Path, content: str | bytes) -> None:
    """Writes a file: after a kill or an error it is the old one or the new one. Folders on the way are made.

    Raises:
        UnwritableError: if it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path), replacing(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`: what the block writes there takes the place of `path` at its end, if it ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Adds to the end of a file and waits until it is on the disk: all of it, or after an error nothing.

    Raises:
        UnwritableError: if it cannot be written.
    """
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            try:
                left = memoryview(text.encode())
                while left:
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """This process alone inside the block; the lock is a file that ends with its process, however that ends.

    Args:
        path: the lock's file; it stays.

    Raises:
        BusyError: if another process, or another thread of this one, is inside; names it.
        UnwritableError: if the file cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{_holder(handle)} works on it. Run the command again when that has ended.") from None
        except OSError as error:
            raise UnwritableError(f"Cannot lock {path}: {error.strerror}. Give another file system.") from error
        with suppress(OSError):  # a full disk
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps({"process": os.getpid(), "machine": platform.node()}).encode())
        yield
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until this thread of this process is alone inside the block, where the file system can lock a folder; the
    lock ends with its process.

    Raises:
        OSError: if there is no such folder.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_claimed(path: Path) -> bool:
    """Whether a process is inside of `claimed` now.

    Args:
        path: the lock's file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _holder(handle: int) -> str:
    try:
        told = json.loads(os.pread(handle, 1000, 0))
        return f"Process {told['process']} on {told['machine']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "Another process"


def set_aside(path: Path, mark: str) -> Path:
    """Renames a file or folder to `<name><mark>1`, or the first such number that is free.

    Raises:
        UnwritableError: if it cannot be renamed.
    """
    with writing(path):
        for number in count(1):
            aside = path.with_name(f"{path.name}{mark}{number}")
            if not os.path.lexists(aside):
                path.rename(aside)
                return aside
    raise AssertionError  # count has no end
