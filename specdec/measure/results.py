"""Result files: what was measured, on what, by which command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.measure.environment import command, machine
from specdec.places import write


def save(path: Path | None, module: str, results: Mapping[str, Any], **about: Any) -> None:
    """Writes a result file, unless the path is None.

    Args:
        path: where to.
        module: the module that measured.
        results: what its `table` takes.
        about: settings.
    """
    if path is not None:
        record = {"command": command(module), "machine": machine(), **about, "results": results}
        write(path, json.dumps(record, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A result file; keys that were numbers are numbers again."""

    def numbered(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
        return {int(key) if key.isdigit() else key: value for key, value in pairs}

    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=numbered)
    return record
