"""Where things are kept that were expensive to make: converted weights, compiled kernels, measured costs."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

_private: dict[int, Path] = {}  # process → its own folder


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/specdec, or ~/.cache/specdec. May be deleted at any time.

    A relative $XDG_CACHE_HOME counts as none, as its specification says. Where there is no home folder either, it is a
    temporary folder of this process.
    """
    for base in (os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache")):
        if os.path.isabs(base):
            return Path(base) / "specdec"
    return (private_folder() or Path(os.sep)) / "specdec"


def private_folder() -> Path | None:
    """A temporary folder of this process alone, removed when it ends; None where there is no room for one."""
    process = os.getpid()
    if process not in _private:
        try:
            _private[process] = Path(tempfile.mkdtemp(prefix="specdec-"))
        except OSError:
            return None
        atexit.register(_remove, process)
    return _private[process]


def entry_name(stem: str, *marks: str) -> str:
    """A file name that says `stem`, as far as a name can, and is another one if any of the marks is."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:60].lstrip(".") or "_"
    told = "\0".join((stem, *marks)).encode(errors="surrogatepass")
    return f"{readable}-{hashlib.sha256(told).hexdigest()[:16]}"


def _remove(process: int) -> None:
    if process == os.getpid():  # a child that was forked inherits this duty, but not the folder
        shutil.rmtree(_private[process], ignore_errors=True)
