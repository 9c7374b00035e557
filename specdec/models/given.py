"""A model that the caller has loaded, in place of files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from specdec.checks import shown
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.models.sources import Files
from specdec.models.words import Words


def name_of(module: PreTrainedModel) -> str:
    """What to call it in messages."""
    return str(getattr(module, "name_or_path", "") or type(module).__name__)


def files_of(module: PreTrainedModel, tokenizer: Any, dtype: torch.dtype) -> Files:
    """A loaded model as if it had been read. It is copied, so that the caller's stays as it is.

    Args:
        module: with all its weights, on any device.
        tokenizer: transformers' own.
        dtype: what the copy's weights become.

    Raises:
        ConfigError: without a tokenizer.
        UnsupportedModelError: for quantized weights, weights that are not in memory, or a model without a head.
    """
    _check(module, tokenizer)
    own = copy.deepcopy(module).eval()
    for parameter in own.parameters():  # not the buffers: angles of positions stay float32
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(dtype)
    said = module.generation_config.to_diff_dict() if module.generation_config is not None else {}
    return Files(own, tokenizer, Words(said, Path(f"generation_config of {name_of(module)}")))


def _check(module: PreTrainedModel, tokenizer: Any) -> None:
    name = name_of(module)
    if not callable(getattr(tokenizer, "decode", None)):
        raise ConfigError(f"tokenizer = {shown(tokenizer)} cannot work: {name} needs its own. Give tokenizer=….")
    if getattr(module, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(f"{name} has quantized weights. Give its folder or hub id in place of the model.")
    if module.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no head that names the next token. Load it by AutoModelForCausalLM.")
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UnsupportedModelError(f"{name} has weights that are not in memory. Load it without device_map.")
