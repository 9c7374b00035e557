"""The only ways into and out of the cache folder: nothing that is wrong there stops a program.

What is kept may be lost, cut short, overwritten with anything, or lie where nothing can be written. So every entry ends
in a seal, which tells its size and digest; it is written beside its place and moved there in one go; what is not as it
was written is made anew, with one warning; and where nothing can be written, memory or a temporary folder serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from specdec.errors import SpecdecError
from specdec.paths import private_folder
from specdec.places import alone_in

FORMAT = 1
"""Of the seal."""
LARGEST = 64 << 20
"""Bytes of an entry; what is larger was not written here."""
SEAL = "specdec.json"
"""The file of a kept folder that tells of the others; written last."""
PART = ".part"
"""Ends the names of what is being written."""
ABANDONED = 24 * 3600
"""Seconds after which what was being written is taken for the remains of a process that was stopped."""
BLOCK, BLOCKS = 1 << 16, 64
"""Bytes, and number, of the pieces of a large file that its seal covers; smaller files are covered whole."""

T = TypeVar("T")
_unwritten: dict[Path, bytes] = {}  # entries that could not be written
_told: set[Path] = set()  # folders of which was said that nothing can be written there


class DoubtError(SpecdecError):
    """A kept entry is not what was written; says why."""


def kept_value(path: Path, make: Callable[[], T], read: Callable[[Any], T], write: Callable[[T], Any]) -> T:
    """A value that was kept as JSON, or that is made now and kept.

    Args:
        path: the entry.
        make: the value anew.
        read: the value from what `write` gave; raises one of Python's errors of values and types if it cannot be.
        write: what JSON can hold.
    """
    found = recall(path)
    if found is not None:
        try:
            return read(json.loads(found[0]))
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            doubt(path, f"it holds something else ({type(error).__name__}: {error})")
    made = make()
    store(path, json.dumps(write(made)).encode())
    return made


def recall(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    """An entry as it was given to `store`: content and what was told about it. None if there is none that is whole."""
    try:
        data = _unwritten.get(path) or _bytes_of(path)
        return None if data is None else unseal(data)
    except (OSError, DoubtError) as error:
        doubt(path, str(error))
        return None


def store(path: Path, content: bytes, about: Mapping[str, str] | None = None) -> bool:
    """Keeps an entry; whoever reads at the same time sees the old one or the new one.

    Returns:
        Whether it was written. If not, there is one warning for each folder, and this process remembers the entry.
    """
    data = seal(content, about or {})
    try:
        with making(path) as scratch:
            (scratch / "new").write_bytes(data)
            _put(scratch / "new", path)
    except OSError as error:
        _unwritten[path] = data
        unwritable(path.parent, error)
        return False
    _unwritten.pop(path, None)
    return True


def kept_folder(target: Path, make: Callable[[Path], None]) -> Path | None:
    """A folder of files that was kept, or that is made now and kept.

    Args:
        target: the folder.
        make: puts the files into an empty folder; raises OSError where it cannot write.

    Returns:
        The folder, for reading; another one, which lasts as long as this process, if nothing can be written there; None
        if nothing can be written anywhere.
    """
    for parent in (target.parent, private_folder()):
        if parent is None:
            continue
        place = parent / target.name
        try:
            if os.path.lexists(place):
                if not (lack := _lack(place)):
                    return place
                doubt(place, lack)
            return _made(place, make)
        except OSError as error:
            unwritable(parent, error)
    return None


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """A folder beside `path` for making what will be moved there; removed in the end, with what is left in it.

    Raises:
        OSError: if the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    scratch = path.parent / f".{uuid.uuid4().hex[:16]}{PART}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def seal(content: bytes, about: Mapping[str, str]) -> bytes:
    """The content, and a last line that tells its size, its digest and `about` it."""
    told = {"specdec": FORMAT, "size": len(content), **about}
    return b"%b\n%b\n" % (content, json.dumps({**told, "sha256": _digest(content, told)}).encode())


def unseal(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """What `seal` was given.

    Raises:
        DoubtError: if it is not exactly that.
    """
    content, _, line = data.removesuffix(b"\n").rpartition(b"\n")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.get("specdec") != FORMAT:
        raise DoubtError("it does not end in the seal of this version")
    if told.pop("sha256", None) != _digest(content, told) or told.pop("size", None) != len(content):
        raise DoubtError("its bytes are not those that were written")
    del told["specdec"]
    return content, told


def doubt(path: Path, why: str) -> None:
    """Says that an entry is made anew."""
    warnings.warn(f"{path} cannot be used and is made anew: {why}.", RuntimeWarning, stacklevel=3)


def unwritable(parent: Path, error: OSError) -> None:
    """Says, once for each folder, that nothing can be kept there."""
    if parent not in _told:
        _told.add(parent)
        warnings.warn(
            f"Nothing can be kept in {parent}: {error}. This run goes on without, and the next one does the same work "
            "again. Set XDG_CACHE_HOME to a folder that can be written and has room.",
            RuntimeWarning,
            stacklevel=3,
        )


def _digest(content: bytes, told: Mapping[str, Any]) -> str:
    return hashlib.sha256(content + json.dumps(told, sort_keys=True).encode()).hexdigest()


def _bytes_of(path: Path) -> bytes | None:
    """Of a file; None where there is none, or where it cannot even be looked for."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise DoubtError("it is no file")
    if status.st_size > LARGEST:
        raise DoubtError(f"it has {status.st_size} bytes, and no entry has so many")
    return path.read_bytes()


def _made(place: Path, make: Callable[[Path], None]) -> Path:
    with making(place) as scratch:
        new = scratch / "new"
        new.mkdir()
        make(new)
        stock = {path.relative_to(new).as_posix(): _mark(path) for path in sorted(new.rglob("*")) if path.is_file()}
        (new / SEAL).write_bytes(seal(json.dumps(stock).encode(), {}))
        _put(new, place)
    return place


def _put(new: Path, place: Path) -> None:
    """Moves a file or a folder to its place, and what is there out of it.

    A whole folder stays: another process was faster, and somebody may be reading it.
    """
    with alone_in(place.parent):
        if new.is_dir() and os.path.lexists(place) and not _lack(place):
            return
        try:
            os.replace(new, place)
        except OSError:
            if not os.path.lexists(place):
                raise
            place.rename(new.with_name("old"))
            os.replace(new, place)


def _lack(place: Path) -> str:
    """What is wrong with a kept folder; empty if nothing is: it has the files that its seal names, as they were."""
    try:
        sealed = _bytes_of(place / SEAL)
        if sealed is None:
            return "it was not finished"
        stock: dict[str, list[Any]] = json.loads(unseal(sealed)[0])
        wrong = sorted(name for name, mark in stock.items() if _mark(place / name) != mark)
    except (OSError, DoubtError) as error:
        return str(error)
    return f"files in it are not those that were written: {', '.join(wrong[:3])}" if wrong else ""


def _mark(path: Path) -> list[Any]:
    """Size, and a digest of the whole file or, if it is large, of pieces from its beginning to its end."""
    digest, status = hashlib.sha256(), path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DoubtError(f"{path.name} is no file")
    with path.open("rb") as file:
        size = status.st_size
        for piece in range(BLOCKS):
            file.seek(piece * BLOCK if size <= BLOCK * BLOCKS else (size - BLOCK) * piece // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return [size, digest.hexdigest()]


def _sweep(parent: Path) -> None:
    """Removes what stopped processes left half-written."""
    with suppress(OSError):
        for scratch in parent.glob(f".*{PART}"):
            if time.time() - scratch.lstat().st_mtime > ABANDONED:
                shutil.rmtree(scratch, ignore_errors=True)
