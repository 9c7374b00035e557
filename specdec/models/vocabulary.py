"""How many tokens a model knows, told from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

from gguf import GGUFReader

from specdec.models.loading import embedded_gguf


def vocab_size_of(path: str | None) -> int | None:
    """Size of the vocabulary, without reading weights.

    Args:
        path: as for `specdec.models.loading.load`.

    Returns:
        None where it cannot be told: a hub id, a missing file, a configuration that does not say.
    """
    source = embedded_gguf() if path is None else Path(path)
    if source.is_file() and source.suffix.lower() == ".gguf":
        tokens = GGUFReader(source).get_field("tokenizer.ggml.tokens")
        return None if tokens is None else len(tokens.data)
    if not (source / "config.json").is_file():
        return None
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    size = told.get("vocab_size", told.get("text_config", {}).get("vocab_size"))
    return None if size is None else int(size)
