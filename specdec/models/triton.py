"""Llama-like models on the Triton kernels: a layer is ten launches, a decoding pass is one captured graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

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
from specdec.kernels.rows import largest
from specdec.kernels.verdicts.triton import row_maxima
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.graphs import Graphs
from specdec.models.inputs import PassInputs
from specdec.models.llama import LlamaLayer, LlamaModel, LlamaSizes, LlamaWeights, why_not_llama
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


Outputs = tuple[Tensor, Tensor | None]
"""Logits, float32 [R, V], and hidden states, float32 [T, k, H], or None."""


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
        layers = [_stack_layer(layer, kind) for layer in weights.layers]
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
        self._graphs = Graphs[PassInputs]()

    judges_on_device = True

    @torch.inference_mode()
    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`. Where maxima alone are wanted the host waits for them once."""
        wants.check(self.name, self.kv_layout.num_layers)
        inputs, before = self._inputs(batch), self._graphs.captures
        logits, hidden = self._outputs(inputs, pool, wants.hidden)
        first = self._graphs.captures > before
        logits, hidden = logits[: len(inputs.logit_rows)], None if hidden is None else hidden[: len(inputs.tokens)]
        if wants.logits == "all":
            return PassOutput(logits, None, hidden, first=first)
        tops = largest(logits, wants.top) if wants.top else None
        return PassOutput(None, row_maxima(logits), hidden, tops, first=first)

    def _inputs(self, batch: RaggedBatch) -> PassInputs:
        return PassInputs.of(batch, self._attention.rows_per_tile(self._heads, self._kv_heads))

    def _outputs(self, inputs: PassInputs, pool: KVPool, taps: tuple[int, ...] = ()) -> Outputs:
        """Of a pass. If it is captured there may be rows of padding behind those that were asked for."""
        rows, wanted = len(inputs.tokens), len(inputs.logit_rows)
        most = MOST_VERIFIED_ROWS if 2 * wanted >= rows else MOST_CAPTURED_ROWS
        if rows > most or not wanted:
            return self._compute(inputs, pool, taps)
        inputs = inputs.padded(self._attention.split)
        compute = partial(self._compute, pool=pool, taps=taps)
        logits, hidden = self._graphs.replay(pool, (inputs.shape, taps), inputs, compute)
        assert logits is not None
        return logits, hidden

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

    def _compute(self, inputs: PassInputs, pool: KVPool, taps: tuple[int, ...]) -> Outputs:
        """The pass, launch by launch, with hidden states at the boundaries `taps`."""
        stream = self.embed(inputs.tokens)
        delta: Tensor | None = None
        hidden: list[Tensor] = []
        for index, layer in enumerate(self._layers):
            normed = rms_norm(stream, layer.norms[0], self._eps, self._dtype, delta)
            if index in taps:
                hidden.append(stream.clone())  # the norm has added what the layer before gave
            delta = self._fed(index, stream, self._attended(index, normed, inputs, pool))
        assert delta is not None
        wanted = inputs.logit_rows
        normed = rms_norm(stream[wanted], self._final_norm, self._eps, self._dtype, delta[wanted])
        logits = self._head(normed, torch.float32, self._table)
        if len(self._layers) in taps:
            hidden.append(rms_norm(stream, self._final_norm, self._eps, torch.float32, delta))
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


def _stack_layer(layer: LlamaLayer, kind: str) -> LayerProducts[TritonProduct]:
    return LayerProducts(
        qkv=stacked(layer.qkv, kind, layer.qkv_bias),
        o=stacked([layer.o], kind),
        gate_up=stacked([layer.gate, layer.up], kind),
        down=stacked([layer.down], kind),
        norms=layer.norms,
        window=layer.window,
    )
