"""Llama-like models in native code: a whole pass is one call (kernels/passes/llama.h)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from ctypes import addressof
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, KVPool
from specdec.errors import SpecdecError, UnsupportedModelError
from specdec.kernels.attention.native import SequenceTable, key_values
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import HEAD_KINDS, KINDS, PackedLinear, pack
from specdec.kernels.rows import RowMaxima
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.chains import ChainDraw, DrawnChain, draw_chains
from specdec.models.llama import LlamaModel, LlamaSizes, LlamaWeights, why_not_llama
from specdec.models.products import LayerProducts
from specdec.models.rows import PassRows

BEST = np.dtype(interface.Best)


def why_not(module: PreTrainedModel) -> str | None:
    """Why a model cannot run natively; None if it can."""
    return why_not_llama(module) or (None if module.device.type == "cpu" else f"it is on {module.device}")


class NativeModel(LlamaModel[PackedLinear]):
    """Runs a Llama-like model on the native CPU kernels; see `CausalLM` for the methods.

    The bits of a row's logits depend on its own prefix alone: not on the other rows of the pass, on the number of
    threads, on where the cache holds the prefix, or on whether the row was drafted in a tree.

    Args:
        module: the model; its weights are copied, and it is not needed afterwards.
        name: what to call it in messages.
        kind: form of the weights, a name of `specdec.kernels.linear.KINDS`. Norms and the residual stream are float32.
        kv_dtype: what the cache holds: float32, bfloat16 or int8 (with one scale per token and head).
        kernels: the compiled library.
        blocks: a GGUF file of the same weights, in blocks.
        head_scales: float32 [hidden], what `smooth` multiplied the head's columns by; None if it did not.

    Raises:
        UnsupportedModelError: if the model is not of this family.
    """

    blocks: Path | None = None
    _head_scales: Tensor | None = None

    def __init__(
        self,
        module: PreTrainedModel,
        name: str = "",
        kind: str = "float32",
        kv_dtype: torch.dtype | None = None,
        kernels: native.Library | None = None,
        blocks: Path | None = None,
        head_scales: Tensor | None = None,
    ) -> None:
        name, self.blocks, self._head_scales = name or type(module).__name__, blocks, head_scales
        if reason := why_not(module):
            raise UnsupportedModelError(f"{name} cannot run natively: {reason}. Use backend='transformers'.")
        weights = LlamaWeights.of(module, name)
        self._take(replace(weights, embedding=weights.embedding.clone()), name, kind, kv_dtype, kernels)

    @classmethod
    def of(
        cls,
        weights: LlamaWeights,
        name: str,
        kind: str = "float32",
        kv_dtype: torch.dtype | None = None,
        kernels: native.Library | None = None,
    ) -> NativeModel:
        """A model of weights that no module holds. Its embedding may have more rows than its head: tokens that it reads
        and never says. It is shared, not copied, if it is dense and of the dtype that the kind asks for.

        Args:
            weights, name, kind, kv_dtype, kernels: see the class.

        Raises:
            UnsupportedModelError: if there are no native kernels.
        """
        model = cls.__new__(cls)
        model._take(weights, name, kind, kv_dtype, kernels)
        return model

    @classmethod
    def of_products(
        cls,
        sizes: LlamaSizes,
        layers: list[LayerProducts[PackedLinear]],
        head: PackedLinear,
        embedding: PackedLinear,
        name: str,
        kind: str,
        kv_dtype: torch.dtype | None = None,
    ) -> NativeModel:
        """A model of products that are packed already, in blocks. Its embedding is read from them and may be the head.

        Args:
            sizes: all but the matrices.
            layers, head, embedding: the matrices.
            name, kind, kv_dtype: see the class.

        Raises:
            UnsupportedModelError: if there are no native kernels.
        """
        model = cls.__new__(cls)
        model._hold(sizes, layers, head, embedding, name, kind, kv_dtype or torch.bfloat16, None)
        return model

    def _take(
        self,
        weights: LlamaWeights,
        name: str,
        kind: str,
        kv_dtype: torch.dtype | None,
        kernels: native.Library | None,
    ) -> None:
        plain = torch.float32 if kind == "float32" else torch.bfloat16

        def stack(
            matrices: list[Tensor], biases: list[Tensor | None] | None = None, gated: bool = False
        ) -> PackedLinear:
            return pack(matrices, kind, biases, gated)

        layers = [LayerProducts.of(layer, stack) for layer in weights.layers]
        head = pack(weights.head, HEAD_KINDS.get(kind, kind))
        embedding = weights.embedding.to(plain).contiguous()
        self._hold(weights, layers, head, embedding, name, kind, kv_dtype or plain, kernels)

    def _hold(
        self,
        sizes: LlamaSizes,
        layers: list[LayerProducts[PackedLinear]],
        head: PackedLinear,
        embedding: Tensor | PackedLinear,
        name: str,
        kind: str,
        kv_dtype: torch.dtype,
        kernels: native.Library | None,
    ) -> None:
        library = kernels or native.library()
        if library is None:
            raise UnsupportedModelError(f"{name}: there are no native kernels. Use backend='transformers'.")
        layout = KVLayout(len(layers), sizes.kv_heads, sizes.head_size, kv_dtype, heads_first=True)
        LlamaModel.__init__(self, name, kind, sizes, layers, head, embedding, layout)
        self._kernels, self._tensors = library, (sizes.final_norm, sizes.frequencies)
        self._struct = interface.Model(
            num_layers=len(layers),
            hidden=sizes.hidden_size,
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_size=sizes.head_size,
            intermediate=sizes.intermediate_size,
            vocab_size=sizes.vocab_size,
            eps=sizes.eps,
            scale=sizes.scale,
            **_read_from(embedding),
            final_norm=sizes.final_norm.data_ptr(),
            frequencies=sizes.frequencies.data_ptr(),
            rope_scale=sizes.rope_factor,
            head=head.struct,
        )
        self._bound: WeakKeyDictionary[KVPool, interface.Model] = WeakKeyDictionary()

    judges_on_device = False

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`: one call into the kernels."""
        wants.check(self.name, self.kv_layout.num_layers)
        rows, num_taps, num_logits = len(batch.token_ids), len(wants.hidden), len(batch.logit_rows)
        logits = torch.empty(num_logits, self.vocab_size) if wants.logits == "all" else None
        hidden = torch.empty(rows, num_taps, self.hidden_size) if num_taps else None
        taps, kept = torch.tensor(wants.hidden, dtype=torch.int64), min(max(wants.top, 1), self.vocab_size)
        best = np.empty((num_logits, kept), BEST)
        table = SequenceTable.of(batch.columns)
        by_row = (batch.token_ids, batch.positions, batch.write_slots)
        pointers = [native.address(column, torch.int64, (rows,)) for column in by_row]
        rest = (native.address(batch.logit_rows, torch.int64), native.address(taps), native.address(hidden))
        call = interface.Batch(rows, num_logits, num_taps, kept, *pointers, *rest, table.struct)
        self._kernels.forward(self._bound_to(pool), call, native.address(logits), best.ctypes.data, num_threads())
        if hidden is not None and self._head_scales is not None and (last := self.kv_layout.num_layers) in wants.hidden:
            hidden[:, wants.hidden.index(last)] *= self._head_scales
        maxima = RowMaxima(best["token"][:, 0].tolist(), best["value"][:, 0].tolist())
        tops = torch.from_numpy(best["token"].astype(np.int32)) if wants.top else None
        return PassOutput(logits, maxima, hidden, tops)

    def run_rows(self, parts: Sequence[SequenceRows], pool: KVPool) -> Tensor:
        """Logits, float32 [R, V], of the `logit_rows` of some sequences: the bits that `run` gives."""
        rows = PassRows(parts)
        logits, best = torch.empty(rows.num_logits, self.vocab_size), np.empty(rows.num_logits, BEST)
        self._kernels.forward(self._bound_to(pool), rows.struct, logits.data_ptr(), best.ctypes.data, num_threads())
        return logits

    def draw(self, parts: Sequence[SequenceRows], pool: KVPool, draws: Sequence[ChainDraw]) -> list[DrawnChain | None]:
        """Chains behind the last rows of some parts, which alone have logits: all in one call. See `draw_chains`."""
        rows = PassRows(parts, room=[each.depth for each in draws])
        return draw_chains(self._kernels, self._bound_to(pool), rows, draws, self.vocab_size)

    def unembed(self, tokens: Sequence[int]) -> Tensor:
        """See `CausalLM.unembed`: as they are rounded."""
        rows = self._head.rows(torch.tensor(tokens, dtype=torch.int64))
        return rows if self._head_scales is None else rows / self._head_scales

    def truncated(self, num_layers: int) -> NativeModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        return super().truncated(num_layers)._apart(num_layers=num_layers)

    def without(self, attention: Collection[int], mlp: Collection[int]) -> NativeModel:
        """See `CausalLM.without`. Weights are shared and this model stays as it is."""
        return super().without(attention, mlp)._apart()

    def with_products(
        self, layers: list[LayerProducts[PackedLinear]], head: PackedLinear, name: str, kind: str
    ) -> NativeModel:
        """A model of the same sizes and embedding with other matrices, over the same pool. This one stays as it is."""
        clone = copy.copy(self)
        clone.name, clone.kind, clone._layers, clone._head = name, kind, layers, head
        return clone._apart(head=head.struct)

    def _apart(self, **changed: Any) -> NativeModel:
        """This copy of a model, no longer sharing what the C interface takes, some fields of which have changed."""
        self._struct, self._bound = interface.Model.from_buffer_copy(self._struct), WeakKeyDictionary()
        for name, value in changed.items():
            setattr(self._struct, name, value)
        return self

    def _bound_to(self, pool: KVPool) -> interface.Model:
        """The model with its layers' part of `pool`, for the C interface: one for each pool, since threads may share a
        model."""
        if pool not in self._bound:
            own, its = self.kv_layout, pool.layout
            alike = (own.num_kv_heads, own.head_dim, own.dtype) == (its.num_kv_heads, its.head_dim, its.dtype)
            if not alike or its.num_layers < own.num_layers:
                raise SpecdecError(f"{self.name} keeps {own}, and not {its}. Give it a cache made for it.")
            layers = (interface.Layer * len(self._layers))()
            for index, layer in enumerate(self._layers):
                norms = [native.address(norm, torch.float32) for norm in layer.norms]
                held = key_values(*pool.layer(index))
                packed = (layer.qkv.struct, layer.o.struct, layer.gate_up.struct, layer.down.struct)
                skips = (not layer.attends, not layer.feeds)
                layers[index] = interface.Layer(*packed, *norms, held, layer.window, *skips)
            model = interface.Model.from_buffer_copy(self._struct)
            model.layers = layers
            self._bound[pool] = model
        return self._bound[pool]


def _read_from(embedding: Tensor | PackedLinear) -> dict[str, Any]:
    """The fields of the C interface that say of an embedding where it is."""
    if isinstance(embedding, PackedLinear):
        kind, rows, place = embedding.struct.kind, embedding.width, addressof(embedding.struct)
    else:
        kind, rows, place = KINDS[str(embedding.dtype).removeprefix("torch.")], len(embedding), embedding.data_ptr()
    return {"embedding_kind": kind, "embedding_rows": rows, "embedding": place}
