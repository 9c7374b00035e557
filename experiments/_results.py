"""What studies write: figures, and a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.measure import results

NEXT = "\n## "
"""Where the next part of a page begins."""
HEAD = "## Simulation\n"
"""Of that part."""


def publish(
    study: str, words: Sequence[str], options: Mapping[str, Any], found: Any, told: str, head: str = HEAD
) -> None:
    """Writes the figures of a study to `results`, and tells them on the page `markdown`, if those are given.

    Args:
        study: module that made them.
        words: of its command line.
        options: what they mean.
        found: the figures.
        told: the same, in Markdown.
        head: of the part of the page that tells them; all other parts stay.
    """
    command = " ".join([f"python -m {study}", *words])
    if "results" in options:
        results.save(options["results"], study, found, command=command)
    if "markdown" in options:
        before, _, old = options["markdown"].read_text(encoding="utf-8").partition(head)
        after = old[old.find(NEXT) :] if NEXT in old else ""
        options["markdown"].write_text(f"{before}{head}\n`{command}`\n\n{told}{after}", encoding="utf-8")
