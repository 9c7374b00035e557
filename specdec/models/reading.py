"""Every call that reads a model's files with transformers. Each says whether code may come with them; none asks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.files import check_texts, json_file, refusal, weight_files
from specdec.models.gguf import gguf_header
from specdec.models.plausible import check_config, check_dtypes, check_fit
from specdec.models.quantized import check_quantized
from specdec.models.tables import Stored, safetensors_table

REMEDY = (
    "Give an existing folder with safetensors weights, a GGUF file, or a hub id that can be reached; a file that was "
    "cut short must be copied again."
)
CODE_REMEDY = "Read that code first, and accept it with trust_remote_code=True, or choose a model of a known type."
GGUF_REMEDY = (
    "If the file was cut short, copy it again; if its architecture is not one that transformers can dequantize, use "
    "the safetensors weights."
)


def read_folder(
    folder: Path, name: str, dtype: torch.dtype, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Any]:
    """A model with all its weights, and its tokenizer, from a folder.

    Args:
        folder: with config.json, weights and a tokenizer.
        name: what messages call it.
        dtype: what the weights become.
        allow_pickle, trust_remote_code: as for `specdec.models.loading.load`.

    Raises:
        UnsupportedModelError: if a file is missing, broken, implausible or refused.
    """
    elements = check_folder(folder, allow_pickle, trust_remote_code)
    options = _options(trust_remote_code)
    with foreign(UnsupportedModelError, f"Cannot load {name!r}", REMEDY):
        if elements is not None:
            check_fit(AutoConfig.from_pretrained(folder, **options), elements, name, trust_remote_code)
        module = _complete(
            folder, dtype=dtype, use_safetensors=None if allow_pickle else True, weights_only=True, **options
        )
    needs_code = not trust_remote_code and "auto_map" in _settings(folder / "tokenizer_config.json")
    with foreign(
        UnsupportedModelError, f"Cannot load the tokenizer of {name!r}", CODE_REMEDY if needs_code else REMEDY
    ):
        return module, AutoTokenizer.from_pretrained(folder, **options)


def read_tokenizer(folder: Path, name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder that holds no model.

    Raises:
        UnsupportedModelError: if its files are broken or refused.
    """
    check_texts(folder)
    with foreign(UnsupportedModelError, f"Cannot load the tokenizer of {name!r}", REMEDY):
        return AutoTokenizer.from_pretrained(folder, **_options(trust_remote_code))


def read_gguf(path: Path, name: str) -> tuple[PreTrainedConfig, PreTrainedModel, Any]:
    """Configuration, model in float32, and tokenizer of a GGUF file. Files beside it are not read.

    Raises:
        UnsupportedModelError: if the file is missing, broken, implausible, or of an unknown architecture.
    """
    header = gguf_header(path)
    options = {"gguf_file": None, **_options(trust_remote_code=False)}
    with foreign(UnsupportedModelError, f"Cannot read {name}", GGUF_REMEDY), _alone(path) as place:
        options["gguf_file"] = str(place)  # the whole path: transformers looks for a bare name where we run, too
        config = AutoConfig.from_pretrained(place.parent, **options)
        check_fit(config, [stored.elements for stored in header.tensors.values()], name)
        module = _complete(place.parent, dtype=torch.float32, **options)
        return config, module, AutoTokenizer.from_pretrained(place.parent, **options)


def read_gguf_tokenizer(path: Path, name: str) -> Any:
    """The tokenizer of a GGUF file. Files beside it are not read.

    Raises:
        UnsupportedModelError: if the file is missing or broken.
    """
    gguf_header(path)
    with foreign(UnsupportedModelError, f"Cannot read the tokenizer of {name}", GGUF_REMEDY), _alone(path) as place:
        return AutoTokenizer.from_pretrained(place.parent, gguf_file=str(place), **_options(trust_remote_code=False))


def check_folder(folder: Path, allow_pickle: bool = False, trust_remote_code: bool = False) -> list[int] | None:
    """Checks which files there are, and that they can be true, before a library opens one.

    Returns:
        How many numbers the tensors may stand for at most; None of pickled weights, which tell nothing unread.

    Raises:
        UnsupportedModelError: for the first thing that is wrong.
    """
    path = folder / "config.json"
    config = json_file(path)
    check_texts(folder)
    check_config(config, path)
    check_quantized(config, path)
    if not trust_remote_code and config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise refusal(path, "the model needs Python code of its own, which is not run", CODE_REMEDY)
    files = weight_files(folder, config.get("transformers_weights"), allow_pickle=allow_pickle)
    if not all(file.suffix == ".safetensors" for file in files):
        return None
    quantized = config.get("quantization_config") is not None
    found: list[Stored] = []
    for file in files:
        table = safetensors_table(file)
        check_dtypes(table, file, quantized)
        found.extend(table.values())
    return [stored.bits if quantized else stored.elements for stored in found]


def _settings(path: Path) -> dict[str, Any]:
    return json_file(path) if path.exists() else {}


def _complete(folder: Path, **options: Any) -> PreTrainedModel:
    """The model with all its weights: what a file lacks, transformers would fill with random numbers.

    Raises:
        ValueError: if a tensor is missing or of another shape; names it.
    """
    module, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}.")
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        raise ValueError(f"{name} has the shape {list(stored)}, and config.json asks for {list(wanted)}.")
    return module


def _options(trust_remote_code: bool) -> dict[str, Any]:
    """What every call is told. Left out, `trust_remote_code` is a question on the terminal.

    Everything is here already; only code of another repository, once allowed, may still have to come.
    """
    return {"trust_remote_code": trust_remote_code, "local_files_only": not trust_remote_code}


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The file in a folder of its own, since transformers reads what it finds beside it."""
    try:
        scratch = tempfile.TemporaryDirectory()
    except OSError:  # nothing can be written
        scratch = None
    with scratch or nullcontext(path.parent) as folder:
        place = Path(folder) / path.name
        if scratch is not None:
            os.symlink(path.resolve(), place)
        yield place
