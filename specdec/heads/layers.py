"""What the layers of every head are made of: those of Llama and Qwen3, with parameters named as in their files."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.errors import ConfigError
from specdec.heads.config import HeadConfig
from specdec.models.llama import LlamaLayer, LlamaWeights

Pair = tuple[Tensor, Tensor]


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019), in float32 or wider."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] → the same."""
        exact = x.to(wide(x.dtype))
        return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Projections, rotation and attention of one layer; the caller says which keys a row sees.

    Args:
        config: of the head.
        width: of what queries, keys and values are made from; h if left out.
    """

    def __init__(self, config: HeadConfig, width: int | None = None) -> None:
        super().__init__()
        self.config, width = config, width or config.hidden_size
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(width, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.o_bias)
        self.q_norm = Norm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = Norm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """[..., T, width] at positions [..., T] → [..., T, heads, D], rotated."""
        q = self.q_proj(x).unflatten(-1, (-1, self.config.head_dim))
        return rotated(self.q_norm(q), positions, self.config)

    def keys_values(self, x: Tensor, positions: Tensor) -> Pair:
        """[..., T, width] at positions [..., T] → keys, rotated, and values, [..., T, KV heads, D] each."""
        k, v = (p(x).unflatten(-1, (-1, self.config.head_dim)) for p in (self.k_proj, self.v_proj))
        return rotated(self.k_norm(k), positions, self.config), v

    def copy(self, layer: LlamaLayer, qkv: list[Tensor] | None = None) -> None:
        """Takes a target's weights over; `qkv` stand in for its own of queries, keys and values."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        for mine, its, bias in zip(projections, qkv or layer.qkv, layer.qkv_bias, strict=True):
            mine.weight.copy_(its)
            if bias is not None:
                mine.bias.copy_(bias)
        self.o_proj.weight.copy_(layer.o)
        for norm, weight in zip((self.q_norm, self.k_norm), layer.norms[2:], strict=True):
            if isinstance(norm, Norm) and weight is not None:
                norm.weight.copy_(weight)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        inner, outer = config.intermediate_size, config.hidden_size
        self.gate_proj = nn.Linear(outer, inner, bias=False)
        self.up_proj = nn.Linear(outer, inner, bias=False)
        self.down_proj = nn.Linear(inner, outer, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., h] → the same."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out

    def copy(self, layer: LlamaLayer) -> None:
        """Takes a target's weights over."""
        for mine, its in zip(
            (self.gate_proj, self.up_proj, self.down_proj), (layer.gate, layer.up, layer.down), strict=True
        ):
            mine.weight.copy_(its)


class DecoderLayer(nn.Module):
    """One layer of Llama or Qwen3.

    Args:
        config: of the head.
        width: of what attention reads; h if left out.
    """

    def __init__(self, config: HeadConfig, width: int | None = None) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, width)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream behind the layer, [..., h], from the stream before it and what its heads have gathered,
        [..., heads, D]."""
        x = x + self.self_attn.o_proj(attended.flatten(-2))
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def copy(self, layer: LlamaLayer, qkv: list[Tensor] | None = None) -> None:
        """Takes a target's weights over; see `Attention.copy`."""
        self.input_layernorm.weight.copy_(layer.norms[0])
        self.post_attention_layernorm.weight.copy_(layer.norms[1])
        self.self_attn.copy(layer, qkv)
        self.mlp.copy(layer)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or float32 if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def rotated(x: Tensor, positions: Tensor, config: HeadConfig) -> Tensor:
    """Rotary embedding (Su et al. 2021, in the halves of transformers): [..., T, heads, D] at positions [..., T].

    Angles are float32, as in the target. No table: a position is never too large.
    """
    frequencies, factor = config.rotary
    angles = (positions.float()[..., None] * frequencies.to(x.device))[..., None, :].to(wide(x.dtype))
    cos, sin = (angles.cos() * factor).to(x.dtype), (angles.sin() * factor).to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention with grouped heads: [B, R, heads, D] over [B, N, KV heads, D] → [B, R, heads, D].

    Args:
        q, k, v: queries, keys, values.
        visible: bool [B, R, N], which keys a row sees: at least one.
    """
    group = q.shape[-2] // k.shape[-2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(group, -2), v.repeat_interleave(group, -2)))
    return functional.scaled_dot_product_attention(q, k, v, visible[:, None]).transpose(1, 2)


def check_alike(config: HeadConfig, target: LlamaWeights) -> None:
    """Raises ConfigError unless the target's layers have the shape of the head's."""
    names = ("hidden_size", "intermediate_size", "heads", "kv_heads", "head_size")
    own = (config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads, config.head_dim)
    its = tuple(getattr(target, name) for name in names)
    if own != its or config.num_layers > len(target.layers):
        raise ConfigError(
            f"Layers of the target cannot be copied into the head: ({', '.join(names)}) are {its} there and {own} "
            f"here, with {config.num_layers} of {len(target.layers)} layers. Give the head the target's sizes."
        )
