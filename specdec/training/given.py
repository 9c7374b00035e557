"""Prompts of the user's own: files of this machine, and sets of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from specdec.errors import ConfigError
from specdec.prompts.files import check_there, lines
from specdec.prompts.sources import PromptSet

HUB = "hub:"
"""Before the name of a set of the hub; `hub:NAME:SPLIT` takes another split than "train"."""
COLUMNS = ("{prompt}", "{turns}", "{messages[content]}", "{instruction}")
"""What makes a prompt of a row: the first of these that it has. Of turns and messages the first one counts."""


def given(sources: Sequence[str]) -> list[str]:
    """Distinct prompts, in their order.

    Args:
        sources: files: one prompt a line if the name ends in .txt, else rows that `specdec.prompts.files.placed` takes,
            with one of `COLUMNS`; or sets of the hub.

    Raises:
        ConfigError: if one cannot be had or holds no prompts; of a line that is not a prompt, file and line are named.
    """
    return list(dict.fromkeys(words for source in sources for words in _prompts(source)))


def marks(sources: Sequence[str]) -> dict[str, str]:
    """Stands for what the sources hold: a file's name → the hash of its bytes; a set of the hub → nothing.

    Raises:
        ConfigError: if a file is not there.
    """
    return {source if _on_hub(source) else Path(source).name: _mark(source) for source in sources}


def check_given(sources: Sequence[str]) -> None:
    """Raises what `given` would, for files alone: nothing is asked of a network."""
    given([source for source in sources if not _on_hub(source)])


def _on_hub(source: str) -> bool:
    return source.startswith(HUB)


def _mark(source: str) -> str:
    if _on_hub(source):
        return ""
    check_there(Path(source), "prompts")
    with Path(source).open("rb") as stream:
        hashed = blake2b(digest_size=16)
        while piece := stream.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()


def _prompts(source: str) -> list[str]:
    if _on_hub(source):
        place, _, split = source.removeprefix(HUB).partition(":")
        return _words(PromptSet(place, COLUMNS, hub={"path": place, "split": split or "train"}))
    check_there(Path(source), "prompts")
    if Path(source).suffix != ".txt":
        return _words(PromptSet(source, COLUMNS, path=source))
    if found := [line.strip() for _, line in lines(Path(source))]:
        return found
    raise ConfigError(f"{source} holds no prompts. Give one a line.")


def _words(rows: PromptSet) -> list[str]:
    return [one.prompt for one in rows.load()]
