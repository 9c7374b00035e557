"""GGUF files as transformers reads them: dequantized once, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.kept import kept_folder
from specdec.models.gguf import gguf_header
from specdec.models.reading import GGUF_REMEDY, read_gguf
from specdec.paths import cache_dir, entry_name

FORMAT = "2"
"""Of what is kept."""


def converted(gguf: Path) -> Path | None:
    """Folder with the dequantized weights of a GGUF file, made on first use: reading them is ten times faster.

    The folder's name follows the file's place, size and time of change, so an edited file is converted anew.

    Returns:
        None where no folder can be written.

    Raises:
        UnsupportedModelError: if the file is missing or cannot be read.
    """
    gguf_header(gguf)
    stat = gguf.stat()
    name = entry_name(gguf.stem, FORMAT, str(gguf.resolve()), str(stat.st_size), str(stat.st_mtime_ns))
    return kept_folder(cache_dir() / name, lambda folder: _save(*decoded(gguf), folder))


def decoded(gguf: Path) -> tuple[PreTrainedModel, Any]:
    """The dequantized model, float32 on the CPU, and its tokenizer.

    Raises:
        UnsupportedModelError: if the file cannot be read.
    """
    config, loaded, tokenizer = read_gguf(gguf, str(gguf))
    with foreign(UnsupportedModelError, f"Cannot read {gguf}", GGUF_REMEDY):
        plain = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        plain.load_state_dict(loaded.state_dict())  # what was read from GGUF refuses to be saved
    plain.generation_config = loaded.generation_config
    return plain.eval(), tokenizer


def _save(module: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Raises OSError if there is no room."""
    try:
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
