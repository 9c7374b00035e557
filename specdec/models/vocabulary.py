"""Which token has which id: two models can work on one text where they agree on every token that both have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from specdec.models.files import LARGEST, json_file
from specdec.models.sources import local


def difference(target: Mapping[str, int], draft: Mapping[str, int]) -> str | None:
    """What two vocabularies disagree on, in words, the token with the least id first; None if they agree.

    Tokens that only one of them has do no harm: the draft never proposes them, or the target never hears of them.

    Args:
        target, draft: token → id.
    """
    both = [token for token in target if token in draft]
    if not both:
        return "have no token in common"
    first = min((token for token in both if target[token] != draft[token]), key=target.__getitem__, default=None)
    if first is None:
        return None
    return (
        f"give different ids to the same tokens: {first!r} is {target[first]} in the target and {draft[first]} in the "
        "draft"
    )


def tokens_of(path: str | None) -> Mapping[str, int] | None:
    """Token → id, read from a folder's tokenizer.json, without a tokenizer.

    Args:
        path: as for `specdec.models.loading.load`.

    Returns:
        None where it cannot be told so: a hub id, a GGUF file, a folder without that file.

    Raises:
        UnsupportedModelError: if the file is broken.
    """
    folder = None if path is None else local(path)
    file = None if folder is None else folder / "tokenizer.json"
    if file is None or not file.is_file():
        return None
    stat = file.stat()
    return _read(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(file: Path, size: int, changed: int) -> Mapping[str, int] | None:
    """As the file was when it had that size and time of change: every job of a sweep asks."""
    content = json_file(file, LARGEST[".json"])
    model, added = content.get("model"), content.get("added_tokens")
    tokens = _model_tokens(model.get("vocab") if isinstance(model, Mapping) else None)
    if tokens is None:
        return None
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str) and isinstance(entry.get("id"), int):
            tokens[entry["content"]] = entry["id"]
    return tokens


def _model_tokens(vocab: Any) -> dict[str, int] | None:
    """Of BPE and its like a table, of Unigram a list of tokens and their scores."""
    if isinstance(vocab, Mapping):
        return {token: number for token, number in vocab.items() if isinstance(number, int)}
    if isinstance(vocab, list):
        pairs = ((number, pair) for number, pair in enumerate(vocab) if isinstance(pair, list) and len(pair) == 2)
        return {pair[0]: number for number, pair in pairs if isinstance(pair[0], str)}
    return None
