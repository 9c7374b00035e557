"""Llama-like models in native code: a whole pass is one call (kernels/passes/llama.h)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, KVPool
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.native import SequenceTable, key_values
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import KINDS, PackedLinear, pack
from specdec.kernels.rows import RowMaxima
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.early_exit import check_exit
from specdec.models.llama import LlamaLayer, own_float, require_finite, why_not_llama


def why_not(module: PreTrainedModel) -> str | None:
    """Why a model cannot run natively; None if it can."""
    return why_not_llama(module) or (None if module.device.type == "cpu" else f"it is on {module.device}")


@dataclass(eq=False)
class _Layer:
    qkv: PackedLinear
    o: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    window: int


class NativeModel:
    """Runs a Llama-like model on the native CPU kernels; see `CausalLM` for the methods.

    The bits of a row's logits depend on its own prefix alone: not on the other rows of the pass, on the number of
    threads, on where the cache holds the prefix, or on whether the row was drafted in a tree.

    Args:
        module: the model; its weights are copied, and it is not needed afterwards.
        name: what to call it in messages.
        kind: form of the weights, a name of `specdec.kernels.linear.KINDS`. Norms and the residual stream are float32.
        kv_dtype: what the cache holds: float32, bfloat16 or int8 (with one scale per token and head).
        kernels: the compiled library.

    Raises:
        UnsupportedModelError: if the model is not of this family.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        name: str = "",
        kind: str = "float32",
        kv_dtype: torch.dtype | None = None,
        kernels: native.Library | None = None,
    ) -> None:
        self.name = name or type(module).__name__
        if reason := why_not(module):
            raise UnsupportedModelError(f"{self.name} cannot run natively: {reason}. Use backend='transformers'.")
        require_finite(module, self.name)
        library = kernels or native.library()
        if library is None:
            raise UnsupportedModelError(f"{self.name}: there are no native kernels. Use backend='transformers'.")
        self._kernels, self.kind = library, kind
        config, base = module.config, module.model
        attention = base.layers[0].self_attn
        head_size = int(attention.head_dim)
        self.vocab_size = int(module.get_output_embeddings().weight.shape[0])
        self.max_context = int(config.max_position_embeddings)
        kv_dtype = kv_dtype or (torch.float32 if kind == "float32" else torch.bfloat16)
        kv_heads = int(config.num_key_value_heads)
        self.kv_layout = KVLayout(len(base.layers), kv_heads, head_size, kv_dtype, heads_first=True)
        self._layers = [_pack_layer(LlamaLayer.of(layer), kind) for layer in base.layers]
        self._head = pack(module.get_output_embeddings().weight.data, kind)
        embedding_kind = "float32" if kind == "float32" else "bfloat16"
        self._embedding = (
            module.get_input_embeddings().weight.data.to(getattr(torch, embedding_kind)).contiguous().clone()
        )
        self._final_norm = own_float(base.norm.weight)
        self._frequencies = own_float(base.rotary_emb.inv_freq)
        self._struct = native.Model(
            num_layers=len(self._layers),
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=kv_heads,
            head_size=head_size,
            intermediate=config.intermediate_size,
            vocab_size=self.vocab_size,
            eps=config.rms_norm_eps,
            scale=float(attention.scaling),
            embedding_kind=KINDS[embedding_kind],
            embedding=self._embedding.data_ptr(),
            final_norm=self._final_norm.data_ptr(),
            frequencies=self._frequencies.data_ptr(),
            rope_scale=float(base.rotary_emb.attention_scaling),
            head=self._head.struct,
        )
        self._bound: WeakKeyDictionary[KVPool, Any] = WeakKeyDictionary()

    judges_on_device = False

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that every pass reads."""
        layers = self._layers[: self._struct.num_layers]
        return self._head.num_bytes + sum(
            part.num_bytes for layer in layers for part in (layer.qkv, layer.o, layer.gate_up, layer.down)
        )

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`: one call into the kernels."""
        logits = torch.empty(len(batch.logit_rows), self.vocab_size) if wants.logits == "all" else None
        model, best = self._struct, (native.Best * len(batch.logit_rows))()
        model.layers = self._layers_on(pool)
        parts = [batch.token_ids, batch.positions, batch.write_slots, batch.logit_rows]
        sizes = (len(batch.token_ids), len(batch.logit_rows))
        table = SequenceTable.of(batch.columns)
        call = native.Batch(*sizes, *(tensor.data_ptr() for tensor in parts), table.struct)
        self._kernels.forward(model, call, native.address(logits), best, num_threads())
        return PassOutput(logits, RowMaxima([each.token for each in best], [each.value for each in best]))

    def truncated(self, num_layers: int) -> NativeModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        check_exit(self.name, self.kv_layout.num_layers, num_layers)
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        clone._struct = native.Model.from_buffer_copy(self._struct)
        clone._struct.num_layers = num_layers
        return clone

    def _layers_on(self, pool: KVPool) -> Any:
        """The layers with their part of `pool`, as an array for the C interface."""
        if pool not in self._bound:
            layers = (native.Layer * len(self._layers))()
            for index, layer in enumerate(self._layers[: pool.layout.num_layers]):
                norms = [native.address(norm) for norm in layer.norms]
                held = key_values(*pool.layer(index))
                packed = (layer.qkv.struct, layer.o.struct, layer.gate_up.struct, layer.down.struct)
                layers[index] = native.Layer(*packed, *norms, held, layer.window)
            self._bound[pool] = layers
        return self._bound[pool]


def _pack_layer(layer: LlamaLayer, kind: str) -> _Layer:
    return _Layer(
        qkv=pack(layer.qkv, kind, layer.qkv_bias),
        o=pack(layer.o, kind),
        gate_up=pack([layer.gate, layer.up], kind, gated=True),
        down=pack(layer.down, kind),
        norms=layer.norms,
        window=layer.window,
    )
