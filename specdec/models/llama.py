"""The Llama family as all its implementations see it: which models belong to it, and their weights by what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.native import MAX_HEAD_SIZE

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def why_not_llama(module: PreTrainedModel) -> str | None:
    """Why a model is not of this family; None if it is."""
    config = module.config
    rope = getattr(config, "rope_parameters", None) or {}
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type not in MODEL_TYPES:
        return f"its type is {config.model_type!r}, not one of {', '.join(MODEL_TYPES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act!r}, not 'silu'"
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        return f"its rotary embedding is {rope.get('rope_type')!r}, not one of {', '.join(ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or head_size % 2 or head_size > MAX_HEAD_SIZE:
        return f"its heads of {head_size} are not rotated as a whole, are odd, or exceed {MAX_HEAD_SIZE}"
    if getattr(config, "mlp_bias", False) or module.model.layers[0].self_attn.o_proj.bias is not None:
        return "its output or feed-forward projections have a bias"
    return None


def require_finite(module: PreTrainedModel, name: str) -> None:
    """Raises UnsupportedModelError if any weight is NaN or infinite."""
    if broken := [key for key, weight in module.state_dict().items() if not torch.isfinite(weight.sum())]:
        raise UnsupportedModelError(f"{name}: {broken[0]} holds NaN or infinite weights. Copy the files again.")


@dataclass(frozen=True, eq=False)
class LlamaLayer:
    """One layer's weights, [out, in] each, as the module holds them.

    Args:
        qkv: of queries, keys and values; `qkv_bias` likewise.
        norms: before attention, before the feed-forward part, and of single queries and keys (Qwen3) or None; float32.
        window: length of the sliding window; 0 if the layer sees everything.
    """

    qkv: list[Tensor]
    qkv_bias: list[Tensor | None]
    o: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    window: int

    @classmethod
    def of(cls, layer: Any) -> LlamaLayer:
        """From transformers' own layer."""
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            qkv=[p.weight.data for p in projections],
            qkv_bias=[None if p.bias is None else p.bias.data for p in projections],
            o=attention.o_proj.weight.data,
            gate=mlp.gate_proj.weight.data,
            up=mlp.up_proj.weight.data,
            down=mlp.down_proj.weight.data,
            norms=(
                own_float(layer.input_layernorm.weight),
                own_float(layer.post_attention_layernorm.weight),
                own_float(attention.q_norm.weight) if hasattr(attention, "q_norm") else None,
                own_float(attention.k_norm.weight) if hasattr(attention, "k_norm") else None,
            ),
            window=_window(attention),
        )


def _window(attention: Any) -> int:
    """Mistral keeps it in the configuration alone."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window or 0
    return attention.config.sliding_window or 0 if attention.config.model_type == "mistral" else 0


def own_float(tensor: Tensor) -> Tensor:
    """A float32 copy, dense."""
    return tensor.detach().float().contiguous().clone()
