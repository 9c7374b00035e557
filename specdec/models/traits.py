"""What a module's configuration says of its text decoder, wherever it says it; nothing is taken for granted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError

UNBOUNDED = 2**31 - 1
"""Context of a model that does not say how long a text may be."""
STRETCHED = ("dynamic", "longrope")
"""Rotary embeddings that change all angles once any sequence of the pass exceeds the original length."""


def text_config(module: PreTrainedModel) -> Any:
    """The part of the configuration that describes the decoder of text: of models of several kinds of input it lies
    inside, of encoder-decoders it has names of its own."""
    return module.config.get_text_config(decoder=True)


def size_of(module: PreTrainedModel, name: str) -> int:
    """A size that no model of ours can do without: "num_hidden_layers", "hidden_size".

    Raises:
        UnsupportedModelError: if the configuration does not say it.
    """
    value = getattr(text_config(module), name, None)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} does not say its {name} in its configuration. Choose another architecture."
        )
    return value


def max_context(module: PreTrainedModel) -> int:
    """Largest number of tokens in a sequence.

    Where rotations are stretched beyond an original length, all of a pass at once, that far it is sound.
    """
    config = text_config(module)
    context = int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        if any(kind in rope["rope_type"] for kind in STRETCHED):
            context = min(context, int(rope.get("original_max_position_embeddings") or context))
    return context


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One for all layers, or one for each type of layer."""
    if "rope_type" in parameters:
        yield parameters
    for value in parameters.values():
        if isinstance(value, Mapping) and "rope_type" in value:
            yield value
