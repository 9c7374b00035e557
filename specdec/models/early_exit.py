"""A model's first layers as a model of their own, sharing its weights."""

from __future__ import annotations

import copy
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
    total = int(module.config.num_hidden_layers)
    base_name = module.base_model_prefix
    base = getattr(module, base_name)
    lists = [n for n, m in base.named_children() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot exit early: no single list of {total} layers found below {base_name!r}. "
            "Use another drafter."
        )
    config = copy.deepcopy(module.config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    clone, base_clone = _shallow(module), _shallow(base)
    base_clone._modules[lists[0]] = nn.ModuleList(map(_shallow, list(base._modules[lists[0]])[:num_layers]))
    base_clone.config = clone.config = config
    clone._modules[base_name] = base_clone
    return clone


def _shallow(module: Any) -> Any:
    """With hooks of its own: transformers collects hidden states by them, and would meet those of both models."""
    clone = copy.copy(module)
    clone._modules, clone._forward_hooks = dict(module._modules), module._forward_hooks.copy()
    return clone
