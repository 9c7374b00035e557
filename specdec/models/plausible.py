"""Can a configuration be true? Its numbers against the largest models that exist, its model against the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from specdec.checks import Kind, Unfit, either, several, shown, whole
from specdec.errors import UnsupportedModelError
from specdec.models.files import refusal
from specdec.models.tables import Stored

MOST_LAYERS, MOST_TOKENS, WIDEST, MOST_PARTS, LONGEST = 2**10, 2**24, 2**20, 2**17, 2**40
BOUNDS = (
    (
        re.compile(r"position|length|ctx|context|window|chunk|seq|tokens|cutoff|dist|factor|theta|base|token_id"),
        LONGEST,
    ),
    (re.compile(r"layers?$|blocks?$|depths?$"), MOST_LAYERS),
    (re.compile(r"vocab"), MOST_TOKENS),
    (re.compile(r"(^|_)(num|n)_|heads?$|experts?$|groups?$|labels$|rank$|kernel|top_?k"), MOST_PARTS),
    (re.compile(r"size|dim|embd|inner|width|d_model|d_ff|d_kv|ffn|hidden|channels"), WIDEST),
)
"""The largest number under a name, by the first pattern that is found in the name. Nothing real comes near them."""
NEEDED = (
    ("vocab_size", MOST_TOKENS),
    ("hidden_size", WIDEST),
    ("num_hidden_layers", MOST_LAYERS),
    ("num_attention_heads", MOST_PARTS),
    ("n_layer", MOST_LAYERS),
    ("n_head", MOST_PARTS),
    ("n_embd", WIDEST),
    ("d_model", WIDEST),
)
"""Sizes that no model can do without: integers from one on, where they are named."""
FIX = "Correct config.json, or copy it again from where the model comes from."
SLACK_ELEMENTS, SLACK_BYTES = 2**24, 2**30
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Checks the numbers of a configuration, at every depth, before a library makes anything of such a size.

    Args:
        config: what the file holds.
        path: where it is, for messages.

    Raises:
        UnsupportedModelError: if one is out of its range; names it.
    """
    for name, value in _entries(config):
        key = name.rpartition(".")[2]
        for needed, most in NEEDED:
            if key == needed and value is not None:
                _fit(name, value, whole(1, most), path)
        bound = next((most for pattern, most in BOUNDS if pattern.search(key)), None)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise refusal(path, f"{name} = {shown(number)} has more than 64 bits", FIX)
            if bound is not None and isinstance(number, int | float) and not abs(number) <= bound:
                raise refusal(path, f"{name} = {shown(number)} is beyond {bound}, more than any model has", FIX)
        if "implementation" in key and "/" in str(value):
            raise refusal(path, f"{name} = {shown(value)} names code to fetch, which is never run", f"Remove it. {FIX}")


def _entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted name, and those inside of it."""
    for name, value in config.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}.")


def _fit(name: str, value: Any, kind: Kind, path: Path) -> None:
    """One integer, or one for each layer."""
    try:
        either(kind, several(kind, "", least=1)).read(value)
    except Unfit:
        raise refusal(path, f"{name} = {shown(value)} cannot work; {kind.wanted} is needed", FIX) from None


def check_dtypes(table: Mapping[str, Stored], path: Path, quantized: bool) -> None:
    """Weights are real numbers, unless a quantization says what else they stand for.

    Other tensors in a file (masks and counters that old versions kept) may be what they are.

    Raises:
        UnsupportedModelError: if a weight is not.
    """
    for name, stored in table.items():
        weight = name.endswith(".weight") or (name.endswith(".bias") and len(stored.shape) == 1)
        if stored.dtype == "C64" or (weight and not quantized and stored.dtype not in FLOATS):
            raise refusal(
                path,
                f"tensor {name!r} is {stored.dtype}; weights are {', '.join(sorted(FLOATS))}, or config.json says in "
                "quantization_config what they stand for",
                "Save the weights as floating-point numbers.",
            )


def check_fit(config: PreTrainedConfig, stored: Iterable[int], name: str, trust_remote_code: bool = False) -> None:
    """Compares the model that a configuration describes, without memory, with what the files hold.

    transformers fills what a file lacks with random numbers: a wrong size would take gigabytes before it is refused.

    Args:
        config: transformers' own.
        stored: upper bounds of the elements of the stored tensors, one for each tensor.
        name: for messages.
        trust_remote_code: whether the model's class may come with its files.

    Raises:
        UnsupportedModelError: if the files cannot fill the model.
    """
    sizes = list(stored)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if isinstance(layers, int) and layers > len(sizes):
        raise UnsupportedModelError(
            f"{name}: the configuration has {layers} layers, the files {len(sizes)} tensors. {FIX}"
        )
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    wanted, held = sum(one.numel() for one in module.parameters()), sum(sizes)
    if wanted > 2 * held + SLACK_ELEMENTS:
        raise UnsupportedModelError(
            f"{name}: the configuration describes a model of {wanted} weights, the files hold {held}. {FIX}"
        )
    buffers = sum(one.nbytes for one in module.buffers())
    if buffers > SLACK_BYTES:
        raise UnsupportedModelError(f"{name}: the configuration asks for {buffers} bytes beside the weights. {FIX}")
