"""What studies write: tables, and the part of a page that a simulation makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.measure import results

HEAD = "## Simulation\n"
"""Of that part; what stands before it stays."""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def publish(study: str, words: Sequence[str], options: Mapping[str, Any], found: Any, told: str) -> None:
    """Writes the figures of a simulation to `results`, and tells them on the page `markdown`, if those are given.

    Args:
        study: module that made them.
        words: of its command line.
        options: what they mean.
        found: the figures.
        told: the same, in Markdown.
    """
    command = " ".join([f"python -m {study}", *words])
    if "results" in options:
        results.save(options["results"], study, found, command=command)
    if "markdown" in options:
        page = options["markdown"].read_text(encoding="utf-8").partition(HEAD)[0]
        options["markdown"].write_text(f"{page}{HEAD}\n`{command}`\n\n{told}", encoding="utf-8")
