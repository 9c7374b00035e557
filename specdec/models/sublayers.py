"""A model without the attention of some layers and the feed-forward part of some, sharing its weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.early_exit import relayered

PARTS = {"attention": ("self_attn", "attention", "attn"), "mlp": ("mlp", "feed_forward", "ffn")}
"""Kind of sublayer → what models call it in their layers."""


def check_skips(name: str, total: int, attention: Collection[int], mlp: Collection[int]) -> None:
    """Raises UnsupportedModelError unless some, but not all, sublayers of a model's `total` layers are left out."""
    for kind, layers in (("attention", attention), ("mlp", mlp)):
        if wrong := [layer for layer in layers if not 0 <= layer < total]:
            raise UnsupportedModelError(
                f"{name} has the layers 0 to {total - 1}; it cannot go without the {kind} of layer {wrong[0]}."
            )
    count = len({*attention}) + len({*mlp})
    if not 1 <= count < 2 * total:
        raise UnsupportedModelError(
            f"{name} has {2 * total} sublayers; to skip some, name 1 to {2 * total - 1} of them, not {count}."
        )


def without_sublayers(module: PreTrainedModel, attention: Collection[int], mlp: Collection[int]) -> PreTrainedModel:
    """A shallow copy in which some sublayers give zeros; every parameter is shared with `module`.

    Raises:
        UnsupportedModelError: if its sublayers cannot be told apart.
    """

    def change(layers: list[Any]) -> list[Any]:
        for kind, skipped in (("attention", attention), ("mlp", mlp)):
            for index in skipped:
                layers[index]._modules[_named(layers[index], kind)] = _Nothing(kind == "attention")
        return layers

    with foreign(UnsupportedModelError, f"{type(module).__name__} cannot skip sublayers", "Use another drafter."):
        return relayered(module, change, "skip sublayers")


def _named(layer: nn.Module, kind: str) -> str:
    """What a layer calls its attention or its feed-forward part."""
    for name in PARTS[kind]:
        if name in layer._modules:
            return name
    raise UnsupportedModelError(
        f"{type(layer).__name__} has no part called {' or '.join(PARTS[kind])} that could be skipped. Use another "
        "drafter."
    )


class _Nothing(nn.Module):
    """Adds nothing to the stream.

    Args:
        attends: whether it stands for an attention, which returns its weights beside its output.
    """

    def __init__(self, attends: bool) -> None:
        super().__init__()
        self._attends = attends

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        nothing = torch.zeros_like(hidden_states)
        return (nothing, None) if self._attends else nothing
