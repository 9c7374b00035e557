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
from specdec.models.reading import GGUF_REMEDY, read_gguf, read_gguf_tokenizer, read_tokenizer
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
    return kept_folder(_place(gguf), lambda folder: _save(*decoded(gguf), folder))


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


def tokenizer_of(gguf: Path) -> Any:
    """The tokenizer of a GGUF file, without its weights. Its files are kept: to make one takes seconds.

    Raises:
        UnsupportedModelError: if the file is missing or cannot be read.
    """
    folder = kept_folder(_place(gguf, "tokenizer"), lambda folder: _save_tokenizer(gguf, folder))
    return read_gguf_tokenizer(gguf, str(gguf)) if folder is None else read_tokenizer(folder, str(gguf))


def _place(gguf: Path, *what: str) -> Path:
    """Where something of a file is kept: another place once the file is another."""
    stat = gguf.stat()
    return cache_dir() / entry_name(
        gguf.stem, FORMAT, *what, str(gguf.resolve()), str(stat.st_size), str(stat.st_mtime_ns)
    )


def _save_tokenizer(gguf: Path, folder: Path) -> None:
    read_gguf_tokenizer(gguf, str(gguf)).save_pretrained(folder)


def _save(module: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Raises OSError if there is no room."""
    try:
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
