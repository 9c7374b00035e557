"""Checkpoints whose weights some method quantized: can they be read here? Told by config.json, before any weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

from specdec.checks import shown
from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.files import refusal

REMEDY = "Do what it asks for, or take the weights that were not quantized, or a GGUF file of the model."
ELSEWHERE = {"quantization": "MLX", "compression_config": "an old compressed-tensors"}
"""Keys under which others describe their formats, which transformers passes over, and whose they are."""
BITS = ("load_in_4bit", "load_in_8bit")
"""Keys of bitsandbytes, which is known by them even where it is not named."""


def check_quantized(config: Mapping[str, Any], path: Path) -> None:
    """Checks that what quantized the weights is known and can run here: its packages, its device.

    Args:
        config: what config.json holds.
        path: of that file, for messages.

    Raises:
        UnsupportedModelError: if it cannot; names the method, what it lacks, and the remedy.
    """
    for holder in (config, config.get("text_config")):
        given = holder.get("quantization_config") if isinstance(holder, Mapping) else None
        if given is not None:
            _check(given, path)
    if config.get("quantization_config") is None:
        for key, whose in ELSEWHERE.items():
            if config.get(key):
                raise refusal(path, f"{key} says that its weights are in {whose} format, which cannot be read", REMEDY)


def _check(given: Any, path: Path) -> None:
    if not isinstance(given, Mapping):
        raise refusal(path, f"quantization_config = {shown(given)} is not an object", REMEDY)
    method = given.get("quant_method")
    if any(given.get(key) for key in BITS):
        method = "bitsandbytes"
    elif not isinstance(method, str) or method not in AUTO_QUANTIZER_MAPPING:
        raise refusal(path, f"its weights are quantized by {shown(method)}, which transformers does not know", REMEDY)
    with foreign(UnsupportedModelError, f"Cannot read {path}: its weights are quantized by {method!r}", REMEDY):
        quantizer = AutoHfQuantizer.from_config(dict(given), pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
