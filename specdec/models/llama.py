"""The Llama family as all its implementations see it: which models belong to it, and their weights by what they do."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.cache import KVLayout
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.native import MAX_HEAD_SIZE
from specdec.models.asks import why_not_within
from specdec.models.early_exit import check_exit
from specdec.models.products import LayerProducts, P
from specdec.models.sublayers import check_skips

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
ROWS_AT_ONCE = 4096
"""Of an embedding in blocks."""


def why_not_llama(module: PreTrainedModel) -> str | None:
    """Why a model is not of this family; None if it is."""
    config = module.config
    if config.model_type not in MODEL_TYPES:
        return f"its type is {config.model_type!r}, not one of {', '.join(MODEL_TYPES)}"
    if getattr(config, "is_heterogeneous", False):
        return f"its layers differ in {', '.join(sorted(config.per_layer_attributes)) or 'what they leave out'}"
    rope = config.rope_parameters or {}
    head_size = (
        config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // config.num_attention_heads
    )
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act!r}, not 'silu'"
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        return f"its rotary embedding is {rope.get('rope_type')!r}, not one of {', '.join(ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or head_size % 2 or head_size > MAX_HEAD_SIZE:
        return f"its heads of {head_size} are not rotated as a whole, are odd, or exceed {MAX_HEAD_SIZE}"
    if strange := _not_dense(module):
        return f"its weights are held by {strange}, not by plain linear layers"
    if getattr(config, "mlp_bias", False) or module.model.layers[0].self_attn.o_proj.bias is not None:
        return "its output or feed-forward projections have a bias"
    return why_not_within(module, [_window(layer.self_attn) for layer in module.model.layers])


def _not_dense(module: PreTrainedModel) -> str | None:
    """Class of the first projection whose weight is not the matrix that it multiplies with; None if all are."""
    projections = [module.get_output_embeddings()]
    for layer in module.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        projections += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        projections += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return next((type(each).__name__ for each in projections if type(each) is not nn.Linear), None)


def require_finite(module: PreTrainedModel, name: str) -> None:
    """Raises UnsupportedModelError if any weight is NaN or infinite."""
    if broken := [key for key, weight in module.state_dict().items() if not torch.isfinite(weight.sum())]:
        raise UnsupportedModelError(f"{name}: {broken[0]} holds NaN or infinite weights. Copy the files again.")


@dataclass(frozen=True, eq=False)
class LlamaLayer:
    """One layer's weights as the module holds them, in its dtype; D is the size of a head.

    Args:
        qkv: of queries, [heads · D, hidden], and of keys and values, [KV heads · D, hidden].
        qkv_bias: [heads · D] and twice [KV heads · D], each of them or None.
        o: [hidden, heads · D].
        gate, up: [intermediate, hidden].
        down: [hidden, intermediate].
        norms: before attention and before the feed-forward part, [hidden]; of single queries and keys, [D] (Qwen3) or
            None; all float32.
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


@dataclass(frozen=True, eq=False)
class LlamaSizes:
    """What there is to know of a model of this family beside its matrices.

    Args:
        heads, kv_heads, head_size: of attention; D is the size of a head.
        hidden_size, intermediate_size, vocab_size: widths of the stream, of the feed-forward part, and of the logits.
        max_context: largest number of tokens in a sequence.
        eps: of all norms.
        scale: factor on the dot products of queries and keys.
        frequencies: float32 [D / 2], radians per position.
        rope_factor: on the cosines and sines.
        final_norm: float32 [hidden].
    """

    heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_context: int
    eps: float
    scale: float
    frequencies: Tensor
    rope_factor: float
    final_norm: Tensor


@dataclass(frozen=True, eq=False)
class LlamaWeights(LlamaSizes):
    """All there is to know of a model of this family: its sizes, and its weights where the module holds them.

    Args:
        layers: from the first to the last.
        embedding: [vocab, hidden].
        head: [vocab, hidden].
    """

    layers: list[LlamaLayer]
    embedding: Tensor
    head: Tensor

    @classmethod
    def of(cls, module: PreTrainedModel, name: str) -> LlamaWeights:
        """From a module that `why_not_llama` accepts.

        Raises:
            UnsupportedModelError: if any weight is NaN or infinite; it calls the model `name`.
        """
        require_finite(module, name)
        config, base, head = module.config, module.model, module.get_output_embeddings().weight.data
        attention = base.layers[0].self_attn
        return cls(
            heads=int(config.num_attention_heads),
            kv_heads=int(config.num_key_value_heads),
            head_size=int(attention.head_dim),
            hidden_size=int(config.hidden_size),
            intermediate_size=int(config.intermediate_size),
            vocab_size=len(head),
            max_context=int(config.max_position_embeddings),
            eps=float(config.rms_norm_eps),
            scale=float(attention.scaling),
            frequencies=own_float(base.rotary_emb.inv_freq),
            rope_factor=float(base.rotary_emb.attention_scaling),
            layers=[LlamaLayer.of(layer) for layer in base.layers],
            embedding=module.get_input_embeddings().weight.data,
            final_norm=own_float(base.norm.weight),
            head=head,
        )


class LlamaModel(Generic[P]):
    """What a model of this family says of itself, whichever kernels run it.

    Args:
        name: what to call it in messages.
        kind: form of the weights.
        sizes: its own; it is not kept.
        layers, head: its products.
        embedding: [vocab, hidden], dense or in blocks.
        layout: of its cache.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        sizes: LlamaSizes,
        layers: list[LayerProducts[P]],
        head: P,
        embedding: Tensor | P,
        layout: KVLayout,
    ) -> None:
        self.name, self.kind, self.kv_layout = name, kind, layout
        self.vocab_size, self.hidden_size = sizes.vocab_size, sizes.hidden_size
        self.max_context = sizes.max_context
        self._layers, self._head, self._embedding = layers, head, embedding

    @property
    def products(self) -> tuple[list[LayerProducts[P]], P]:
        """The matrices of its layers, and that of its head."""
        return self._layers, self._head

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that every pass reads."""
        return self._head.num_bytes + sum(layer.num_bytes for layer in self._layers)

    @property
    def embedding(self) -> Tensor:
        """[vocab, hidden], dense; to be read. One in blocks is widened to bfloat16 each time."""
        held = self._embedding
        if isinstance(held, Tensor):
            return held
        parts = torch.split(torch.arange(held.width, device=self.kv_layout.device), ROWS_AT_ONCE)
        return torch.cat([held.rows(ids).bfloat16() for ids in parts])

    def embed(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """See `CausalLM.embed`."""
        held, ids = self._embedding, torch.as_tensor(tokens, dtype=torch.int64, device=self.kv_layout.device)
        return held[ids].float() if isinstance(held, Tensor) else held.rows(ids)

    def truncated(self: M, num_layers: int) -> M:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        check_exit(self.name, self.kv_layout.num_layers, num_layers)
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        clone._layers = self._layers[:num_layers]
        return clone

    def without(self: M, attention: Collection[int], mlp: Collection[int]) -> M:
        """See `CausalLM.without`. Weights are shared and this model stays as it is."""
        check_skips(self.name, self.kv_layout.num_layers, attention, mlp)
        clone = copy.copy(self)
        clone.name = f"{self.name} without {len(attention) + len(mlp)} sublayers"
        clone._layers = [
            replace(layer, attends=layer.attends and index not in attention, feeds=layer.feeds and index not in mlp)
            for index, layer in enumerate(self._layers)
        ]
        return clone


M = TypeVar("M", bound=LlamaModel[Any])


def own_float(tensor: Tensor) -> Tensor:
    """A float32 copy, dense."""
    return tensor.detach().float().contiguous().clone()
