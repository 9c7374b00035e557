"""What the pages print for a reader to type: blocks of commands, of Python, and files to write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "toml", "text"}
"""Of blocks: commands, snippets or whole files, a part of a file, and what is only to be read."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Of these languages, or all, in the page's order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(*pair) for pair in found if not languages or pair[0] in languages]


def commands(page: Path) -> Iterator[str]:
    """Each command of a page without its comment; one that goes on in the next line is joined.

    >>> [*without_comments("a \\\\\\n  b   # c\\n")]
    ['a   b']
    """
    for block in blocks(page, "sh"):
        yield from without_comments(block.text)


def without_comments(text: str) -> Iterator[str]:
    """The commands of a block; a comment has two blanks before it, or a line of its own, as quoted # have not."""
    for line in text.replace("\\\n", "").splitlines():
        if command := re.sub(r"(^|\s)# .*$", "", line).strip():
            yield command


def file_of(snippet: str) -> str | None:
    """The path that a snippet's first line gives it, if it is a file."""
    found = re.match(r"# (\S+\.py)\n", snippet)
    return found[1] if found else None
