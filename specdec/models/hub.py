"""Models on the Hugging Face hub: which names are asked for there, and which of a repository's files come here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.adapters import CONFIG as ADAPTER_CONFIG
from specdec.models.adapters import WEIGHTS as ADAPTER_WEIGHTS
from specdec.models.files import INDEXES, shards

TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REMEDY = (
    "Check the name and the revision, and that the hub can be reached: give an existing path, or a hub id that can be "
    "reached or is already in its cache (HF_HUB_OFFLINE=1 asks nobody)."
)


@dataclass(frozen=True)
class Repository:
    """A name on the hub.

    Args:
        id: "owner/name", or an old "name".
        file: a GGUF file in it, or None for the whole model.
    """

    id: str
    file: str | None = None


def repository(name: str) -> Repository | None:
    """The repository that a text names: "owner/name", "name" or "owner/name/…/file.gguf". None if it can be none."""
    parts = name.split("/")
    gguf = name.lower().endswith(".gguf")
    if not all(PART.fullmatch(part) for part in parts) or (len(parts) > 2) != gguf:
        return None
    return Repository("/".join(parts[:2]), "/".join(parts[2:]) or None)


def fetched(wanted: Repository, revision: str | None, *, allow_pickle: bool, trust_remote_code: bool) -> Path:
    """The GGUF file, or a folder with the texts and the weights of a model, in the hub's cache.

    Args:
        wanted: what to fetch.
        revision: branch, tag or commit; None is the main branch.
        allow_pickle: fetch pickled weights where there are no others.
        trust_remote_code: fetch Python files too.

    Raises:
        UnsupportedModelError: if it is neither in the cache nor to be had.
    """
    with foreign(UnsupportedModelError, f"Cannot fetch {wanted.id!r} from the hub", REMEDY):
        if wanted.file is not None:
            return _file(wanted.id, wanted.file, revision)
        folder = _files(wanted.id, revision, [*TEXTS, *(["*.py"] if trust_remote_code else [])])
        if (folder / ADAPTER_CONFIG).is_file():
            return _files(wanted.id, folder.name, [ADAPTER_WEIGHTS])
        for ending, single in ((".safetensors", "model.safetensors"), (".bin", "pytorch_model.bin")):
            index = folder / INDEXES[ending]
            names = shards(index) if index.is_file() else [single]
            if ending == ".safetensors" or allow_pickle:
                folder = _files(wanted.id, folder.name, names)
            if any((folder / name).is_file() for name in names):
                break
        return folder


def _file(repo: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, file, revision=revision))


def _files(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of one commit, whose name is the commit's: asked again by it, nothing of another can come."""
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": ["*/*"]}
    return Path(snapshot_download(repo, revision=revision, **options))
