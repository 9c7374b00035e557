"""Llama-like models on the Triton kernels: a layer is ten launches, a decoding pass is one captured graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, KVPool
from specdec.errors import UnsupportedModelError
from specdec.kernels import interpreter
from specdec.kernels.attention.triton import AttentionConfig, config_for, triton_attention
from specdec.kernels.linear import HEAD_KINDS
from specdec.kernels.linear.triton import LinearTable
from specdec.kernels.linear.triton_weights import COMPUTED_IN, TritonProduct, stacked
from specdec.kernels.norm.triton import rms_norm, rope_and_write, silu_mul
from specdec.kernels.rows.triton import row_maxima, told_maxima, tops
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.graphs import Graphs
from specdec.models.inputs import PackedPass, PassInputs
from specdec.models.llama import LlamaModel, LlamaSizes, LlamaWeights, why_not_llama
from specdec.models.products import LayerProducts

MOST_CAPTURED_ROWS = 64
"""Longer passes are launched kernel by kernel if they read prompts: their launches cost little beside their work."""
MOST_VERIFIED_ROWS = 512
"""Of a captured pass with as many logits as half of its rows: it verifies drafts of many requests."""


def why_not_triton(module: PreTrainedModel) -> str | None:
    """Why a model cannot run on the Triton kernels; None if it can."""
    if module.device.type != "cuda" and not interpreter.active():
        return f"it is on {module.device}, and Triton kernels need a GPU (or TRITON_INTERPRET=1, to try them)"
    return why_not_llama(module)


class Outputs(NamedTuple):
    """What a pass leaves on the device.

    Args:
        logits: float32 [R, V], if they are wanted.
        best: int32 [2, R], if the largest alone are: see `row_maxima`.
        tops: int64 [R, k], if some largest are told apart.
        hidden: float32 [T, k, H], if any boundary is wanted.
    """

    logits: Tensor | None = None
    best: Tensor | None = None
    tops: Tensor | None = None
    hidden: Tensor | None = None


class TritonModel(LlamaModel[TritonProduct]):
    """Runs a Llama-like model on the Triton kernels; see `CausalLM` for the methods.

    The bits of a row's logits depend on its own prefix alone, as those of `NativeModel` do on a CPU.

    Args:
        module: the model, on its device; its weights are copied.
        name: what to call it in messages.
        kind: float32, float16, bfloat16, int8 (W8A8), int8_weight, int4 or gguf (see `specdec.kernels.linear.KINDS`).
        kv_dtype: of the cache: a float dtype like the weights', int8 or float8_e4m3fn; None takes the former.
        attention: sizes of the attention kernel; None takes those that are shipped.
        table: which kernel multiplies how many rows; None keeps to the row-invariant one.

    Raises:
        UnsupportedModelError: if the model is not of this family, or not on a GPU.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        name: str = "",
        kind: str = "bfloat16",
        kv_dtype: torch.dtype | None = None,
        attention: AttentionConfig | None = None,
        table: LinearTable | None = None,
    ) -> None:
        name = name or type(module).__name__
        if reason := why_not_triton(module):
            raise UnsupportedModelError(f"{name} cannot run on Triton: {reason}. Use backend='transformers'.")
        weights = LlamaWeights.of(module, name)
        self._take(replace(weights, embedding=weights.embedding.clone()), name, kind, kv_dtype, attention, table)

    @classmethod
    def of(cls, weights: LlamaWeights, name: str, kind: str = "bfloat16") -> TritonModel:
        """A model of weights that no module holds, all of them on one device. Its embedding may have more rows than its
        head: tokens that it reads and never says. It is shared, not copied, if it is dense and of the dtype that the
        kind asks for.

        Args:
            weights, name, kind: see the class.
        """
        model = cls.__new__(cls)
        model._take(weights, name, kind)
        return model

    @classmethod
    def of_products(
        cls,
        sizes: LlamaSizes,
        layers: list[LayerProducts[TritonProduct]],
        head: TritonProduct,
        embedding: TritonProduct,
        name: str,
        kind: str,
        kv_dtype: torch.dtype | None = None,
        attention: AttentionConfig | None = None,
    ) -> TritonModel:
        """A model of products that are in blocks already, all on one device; see `NativeModel.of_products`."""
        model = cls.__new__(cls)
        model._hold(sizes, layers, head, embedding, name, kind, kv_dtype, attention)
        return model

    def _take(
        self,
        weights: LlamaWeights,
        name: str,
        kind: str,
        kv_dtype: torch.dtype | None = None,
        attention: AttentionConfig | None = None,
        table: LinearTable | None = None,
    ) -> None:
        if kind not in COMPUTED_IN:
            raise UnsupportedModelError(f"{name}: unknown kind {kind!r}. Valid names: {', '.join(COMPUTED_IN)}.")

        def stack(
            matrices: list[Tensor], biases: list[Tensor | None] | None = None, gated: bool = False
        ) -> TritonProduct:
            return stacked(matrices, kind, biases)  # a gate is told from its values behind the product

        layers = [LayerProducts.of(layer, stack) for layer in weights.layers]
        head = stacked([weights.head], HEAD_KINDS.get(kind, kind))
        embedding = weights.embedding.to(COMPUTED_IN[kind]).contiguous()
        self._hold(weights, layers, head, embedding, name, kind, kv_dtype, attention, table)

    def _hold(
        self,
        sizes: LlamaSizes,
        layers: list[LayerProducts[TritonProduct]],
        head: TritonProduct,
        embedding: Tensor | TritonProduct,
        name: str,
        kind: str,
        kv_dtype: torch.dtype | None,
        attention: AttentionConfig | None = None,
        table: LinearTable | None = None,
    ) -> None:
        if interpreter.active():
            interpreter.install()
        self._dtype, self._table = COMPUTED_IN[kind], table or LinearTable()
        held, device = kv_dtype or self._dtype, sizes.final_norm.device
        layout = KVLayout(len(layers), sizes.kv_heads, sizes.head_size, held, device)
        LlamaModel.__init__(self, name, kind, sizes, layers, head, embedding, layout)
        self._heads, self._kv_heads = sizes.heads, sizes.kv_heads
        self._scale, self._eps = sizes.scale, sizes.eps
        self._final_norm, self._frequencies = sizes.final_norm, sizes.frequencies
        self._rope_factor = sizes.rope_factor
        self._attention = attention or config_for(self._dtype, sizes.head_size)
        self._graphs = Graphs[PackedPass]()

    judges_on_device = True

    @torch.inference_mode()
    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`. Where maxima alone are wanted the host waits for them once."""
        wants.check(self.name, self.kv_layout.num_layers)
        before = self._graphs.captures
        given = self._outputs(batch, pool, wants)
        tops = None if given.tops is None else given.tops.int().cpu()
        maxima = None if given.best is None else told_maxima(given.best)
        return PassOutput(given.logits, maxima, given.hidden, tops, first=self._graphs.captures > before)

    def _outputs(self, batch: RaggedBatch, pool: KVPool, wants: Wants, states: Tensor | None = None) -> Outputs:
        """Of a pass; a short one is a captured graph."""
        rows, count, device = len(batch.token_ids), len(batch.logit_rows), self.kv_layout.device
        most = MOST_VERIFIED_ROWS if 2 * count >= rows else MOST_CAPTURED_ROWS
        short = count > 0 and rows <= most
        tile = self._attention.rows_per_tile(self._heads, self._kv_heads)
        packed = PackedPass.of(batch, tile, device, self._attention.split if short else None, states)

        def compute(packed: PackedPass) -> Outputs:
            return self._compute(packed.inputs, pool, wants)

        if short:
            given = Outputs(*self._graphs.replay(pool, (packed.shape, wants), packed, compute))
        else:
            given = compute(packed.on(device))
        return Outputs(
            None if given.logits is None else given.logits[:count],
            None if given.best is None else given.best[:, :count],
            None if given.tops is None else given.tops[:count],
            None if given.hidden is None else given.hidden[:rows],
        )

    def unembed(self, tokens: Sequence[int]) -> Tensor:
        """See `CausalLM.unembed`: as they are rounded."""
        return self._head.rows(torch.tensor(tokens, dtype=torch.int64, device=self.kv_layout.device))

    def truncated(self, num_layers: int) -> TritonModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        clone = super().truncated(num_layers)
        clone._graphs = Graphs()
        return clone

    def without(self, attention: Collection[int], mlp: Collection[int]) -> TritonModel:
        """See `CausalLM.without`: not here, where a norm adds what the sublayer before it gave."""
        raise UnsupportedModelError(f"{self.name} cannot leave out sublayers on Triton. Use backend='transformers'.")

    def _compute(self, inputs: PassInputs, pool: KVPool, wants: Wants) -> Outputs:
        """The pass, launch by launch."""
        logits, hidden = self._logits(inputs, pool, wants.hidden)
        argmax = wants.logits == "argmax"
        return Outputs(
            None if argmax else logits,
            row_maxima(logits) if argmax else None,
            tops(logits, wants.top)[0] if wants.top else None,
            hidden,
        )

    def _logits(self, inputs: PassInputs, pool: KVPool, taps: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """All logits, and the hidden states at the boundaries `taps`."""
        stream = self.embed(inputs.tokens)
        delta: Tensor | None = None
        hidden: list[Tensor] = []
        for index, layer in enumerate(self._layers):
            normed = rms_norm(stream, layer.norms[0], self._eps, self._dtype, delta)
            if index in taps:
                hidden.append(stream.clone())  # the norm has added what the layer before gave
            delta = self._fed(index, stream, self._attended(index, normed, inputs, pool))
        assert delta is not None
        read, added = inputs.wanted(stream), inputs.wanted(delta)
        if len(self._layers) in taps:
            hidden.append(rms_norm(stream.clone(), self._final_norm, self._eps, torch.float32, delta))
        normed = rms_norm(read, self._final_norm, self._eps, self._dtype, added)
        logits = self._head(normed, torch.float32, self._table)
        return logits, torch.stack(hidden, 1) if hidden else None

    def _attended(self, index: int, read: Tensor, inputs: PassInputs, pool: KVPool) -> Tensor:
        """What a layer's attention adds to the stream, [T, hidden]; `read`: what its qkv multiplies."""
        layer, held = self._layers[index], pool.layer(index)
        qkv = layer.qkv(read, self._dtype, self._table)
        query_norm, key_norm = layer.norms[2:]
        norms = None if query_norm is None or key_norm is None else (query_norm, key_norm)
        queries = rope_and_write(
            qkv, held, inputs.plan.positions, inputs.slots, self._frequencies, self._heads, self._rope_factor, norms,
            self._eps,
        )  # fmt: skip
        attended = triton_attention(
            queries, held[0], held[1], inputs.plan, self._scale, layer.window or None, None, held[2], held[3],
            self._attention,
        )  # fmt: skip
        return layer.o(attended.flatten(1), self._dtype, self._table)

    def _fed(self, index: int, stream: Tensor, delta: Tensor) -> Tensor:
        """What a layer's feed-forward part adds to the stream, to which `delta` is added in place; [T, hidden] all."""
        layer = self._layers[index]
        normed = rms_norm(stream, layer.norms[1], self._eps, self._dtype, delta)
        gated = silu_mul(layer.gate_up(normed, self._dtype, self._table))
        return layer.down(gated, self._dtype, self._table)
