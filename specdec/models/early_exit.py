"""A model's first layers as a model of their own, sharing its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign


def check_exit(name: str, total: int, num_layers: int) -> None:
    """Raises UnsupportedModelError unless `num_layers` of a model's `total` layers are some but not all."""
    if not 1 <= num_layers < total:
        raise UnsupportedModelError(
            f"{name} has {total} layers; an early exit needs 1 to {total - 1} of them, got {num_layers}."
        )


def with_layers(module: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A shallow copy whose list of layers is cut; every parameter is shared with `module`.

    Raises:
        UnsupportedModelError: if its layers cannot be told apart from the rest.
    """
    with foreign(UnsupportedModelError, f"{type(module).__name__} cannot exit early", "Use another drafter."):
        return _cut(module, num_layers)


def _cut(module: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    config = copy.deepcopy(module.config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    clone = relayered(module, lambda layers: layers[:num_layers], "exit early")
    getattr(clone, module.base_model_prefix).config = clone.config = config
    return clone


def relayered(module: PreTrainedModel, change: Callable[[list[Any]], list[Any]], what: str) -> PreTrainedModel:
    """A shallow copy with other layers; every parameter is shared with `module`.

    Args:
        module: the model; it stays as it is.
        change: shallow copies of its layers → those of the copy.
        what: the model does thereby, in words that follow "cannot".

    Raises:
        UnsupportedModelError: if its layers cannot be told apart from the rest.
    """
    total = int(module.config.num_hidden_layers)
    base_name = module.base_model_prefix
    base = getattr(module, base_name)
    lists = [n for n, m in base.named_children() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot {what}: no single list of {total} layers found below {base_name!r}. "
            "Use another drafter."
        )
    clone, base_clone = shallow(module), shallow(base)
    base_clone._modules[lists[0]] = nn.ModuleList(change(list(map(shallow, base._modules[lists[0]]))))
    clone._modules[base_name] = base_clone
    return clone


def shallow(module: Any) -> Any:
    """A copy that shares what is in it. Its hooks are its own: transformers collects hidden states by them, and would
    meet those of both models."""
    clone = copy.copy(module)
    clone._modules, clone._forward_hooks = dict(module._modules), module._forward_hooks.copy()
    return clone
