"""Which bytes a run worked on: digests of its prompts and of the files of its models, heads and stores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from specdec.errors import SpecdecError
from specdec.models.sources import located
from specdec.prompts import PromptRecord
from specdec.prompts.subsets import fingerprint

WEIGHTS = frozenset({".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz"})
"""Endings of the files of a model's folder that hold numbers."""
BLOCK = 1 << 22
"""Bytes that are read at a time."""
MODELS = frozenset({"draft"})
"""Options of a drafter that name a model, which may be on a hub."""


def inputs(values: Mapping[str, Any], records: Sequence[PromptRecord]) -> dict[str, Any]:
    """What `environment.json` keeps of a job's data and weights.

    Args:
        values: all settings of the job.
        records: its prompts.

    Returns:
        `data`: digests of the prompts as they were taken, and of the file that they came from; `weights`: option →
        name of a file → its SHA-256. What cannot be read is left out: the job says why when it needs it.
    """
    target, drafter, data = values["target"], values["drafter"], values["data"]
    named = {"target.path": _model(target["path"], target.get("revision"))}
    for name, value in drafter.items():
        if isinstance(value, str) and not name.startswith("_"):
            named[f"drafter.{name}"] = _model(value) if name in MODELS else _files(value)
    file = {"file": digest(Path(data["path"]))} if data.get("path") and Path(data["path"]).is_file() else {}
    return {
        "data": {"prompts": len(records), "fingerprint": fingerprint(records), **file},
        "weights": {name: found for name, found in named.items() if found},
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, read once for each state of it: a sweep asks for the same weights in every job."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


def _model(path: str | None, revision: str | None = None) -> dict[str, str]:
    try:
        return _files(located(path, revision))
    except SpecdecError:
        return {}


def _files(path: str | Path) -> dict[str, str]:
    """Of a file, or of those below a folder that hold weights."""
    try:
        place = Path(path).expanduser()
        files = [place] if place.is_file() else [one for one in place.rglob("*") if one.suffix in WEIGHTS]
        return {one.name if one == place else one.relative_to(place).as_posix(): digest(one) for one in sorted(files)}
    except OSError:
        return {}


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(BLOCK):
            found.update(piece)
    return found.hexdigest()
