"""SmoothQuant: moves the outliers of the activations into the weights before both are rounded to 8 bits.

Source: Xiao et al., "SmoothQuant" (2023), equation 4. An input channel j of a product is divided by
s_j = max|X_j|^α / max|W_j|^(1 - α) and the weights' column is multiplied by it. The division is folded into whatever
makes that input (a norm's weights, the value or the up projection), so that the model computes the same function as
before: exactly in real arithmetic, and nothing is added to a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.errors import ConfigError

SMALLEST = 1e-5


@torch.no_grad()
def smooth(module: PreTrainedModel, texts: Sequence[Sequence[int]], alpha: float = 0.5) -> Tensor:
    """Rescales a Llama-like model's channels in place. Returns float32 [hidden]: what the columns of its output rows
    were multiplied by, and its last norm divided by. Whoever reads those rows or that norm from outside must undo it.

    Args:
        module: a model that `specdec.models.native.why_not` accepts, in float32.
        texts: token ids to measure the activations on, run through the model one after the other.
        alpha: how much of the difficulty moves into the weights: 1 flattens the activations, 0 the weights.

    Raises:
        ConfigError: if alpha is not in [0, 1], or there is no text.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"smoothing={alpha} must be from 0 to 1.")
    if not any(len(text) for text in texts):
        raise ConfigError("Smoothing needs text to measure activations on: give calibration=<a file with text>.")
    largest = _largest_inputs(module, texts)
    for layer in module.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        _fold(largest[attention.q_proj], projections, [layer.input_layernorm.weight], alpha)
        _fold_values(largest[attention.o_proj], attention, alpha)
        _fold(largest[mlp.gate_proj], (mlp.gate_proj, mlp.up_proj), [layer.post_attention_layernorm.weight], alpha)
        _fold(largest[mlp.down_proj], (mlp.down_proj,), [mlp.up_proj.weight], alpha)
    if module.get_output_embeddings().weight is module.get_input_embeddings().weight:
        module.get_output_embeddings().weight = nn.Parameter(module.get_output_embeddings().weight.clone())
    head = module.get_output_embeddings()
    return _fold(largest[head], (head,), [module.model.norm.weight], alpha).float()


def _largest_inputs(module: PreTrainedModel, texts: Sequence[Sequence[int]]) -> dict[nn.Module, Tensor]:
    """Largest magnitude of every input channel of every linear layer."""
    largest: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].abs().flatten(0, -2).amax(0)
        largest[layer] = torch.maximum(largest[layer], found) if layer in largest else found

    hooks = [layer.register_forward_pre_hook(note) for layer in module.modules() if isinstance(layer, nn.Linear)]
    try:
        for text in texts:
            if len(text):
                module(input_ids=torch.tensor([list(text)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _scales(activations: Tensor, layers: Sequence[Any], alpha: float) -> Tensor:
    weights = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)
    scales = activations.clamp(min=SMALLEST) ** alpha / weights.clamp(min=SMALLEST) ** (1 - alpha)
    return scales.clamp(min=SMALLEST)


def _fold(activations: Tensor, layers: Sequence[Any], sources: Sequence[Tensor], alpha: float) -> Tensor:
    """Multiplies the layers' columns by the scales and divides the rows of what feeds them. Returns the scales."""
    scales = _scales(activations, layers, alpha)
    for layer in layers:
        layer.weight.mul_(scales)
    for source in sources:
        source.div_(scales if source.dim() == 1 else scales[:, None])
    return scales


def _fold_values(activations: Tensor, attention: Any, alpha: float) -> None:
    """Through the value projection. Query heads that share a value head must share its scales."""
    size = attention.head_dim
    group = activations.numel() // attention.v_proj.weight.shape[0]
    scales = _scales(activations, (attention.o_proj,), alpha).view(-1, group, size).amax(1)
    attention.o_proj.weight.mul_(scales[:, None].expand(-1, group, -1).flatten())
    attention.v_proj.weight.div_(scales.flatten()[:, None])
    if attention.v_proj.bias is not None:
        attention.v_proj.bias.div_(scales.flatten())
