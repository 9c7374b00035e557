"""Llama-like models on the Triton kernels: a layer is ten launches, a decoding pass is one captured graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, KVPool
from specdec.errors import UnsupportedModelError
from specdec.kernels import interpreter
from specdec.kernels.attention.triton import AttentionConfig, config_for, triton_attention
from specdec.kernels.linear.reference import quantize_rows
from specdec.kernels.linear.triton import LinearTable, triton_linear
from specdec.kernels.norm.triton import quantize_rows as quantize_on_device
from specdec.kernels.norm.triton import rms_norm, rope_and_write, silu_mul
from specdec.kernels.verdicts.triton import row_maxima
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.early_exit import check_exit
from specdec.models.inputs import PassInputs
from specdec.models.llama import LlamaLayer, own_float, require_finite, why_not_llama

KINDS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.bfloat16,
         "int8_weight": torch.bfloat16}  # fmt: skip
"""Form of the weights → what the kernels compute in between."""
MOST_CAPTURED_ROWS = 64
"""Longer passes (prefill) are launched kernel by kernel: their launches cost little beside their work."""


def why_not_triton(module: PreTrainedModel) -> str | None:
    """Why a model cannot run on the Triton kernels; None if it can."""
    if module.device.type != "cuda" and not interpreter.active():
        return f"it is on {module.device}, and Triton kernels need a GPU (or TRITON_INTERPRET=1, to try them)"
    return why_not_llama(module)


@dataclass(frozen=True, eq=False)
class Weights:
    """One product's weights: [N, K], scales [N] if they are 8-bit, bias or None."""

    matrix: Tensor
    scales: Tensor | None
    bias: Tensor | None
    kind: str

    @classmethod
    def of(cls, parts: list[Tensor], kind: str, biases: list[Tensor | None] | None = None) -> Weights:
        """Stacked and rounded as `kind` says."""
        matrix, bias = torch.cat(parts), None
        if biases is not None and any(b is not None for b in biases):
            joined = [p.new_zeros(len(p)) if b is None else b for p, b in zip(parts, biases, strict=True)]
            bias = torch.cat(joined).float()
        if kind.startswith("int8"):
            codes, scales = quantize_rows(matrix)
            return cls(codes.contiguous(), scales, bias, kind)
        return cls(matrix.to(KINDS[kind]).contiguous(), None, bias, kind)

    def __call__(self, x: Tensor, dtype: torch.dtype, table: LinearTable) -> Tensor:
        """x [T, K] → `dtype` [T, N]."""
        x_scales = None
        if self.kind == "int8":
            x, x_scales = quantize_on_device(x)
        return triton_linear(x, self.matrix, self.bias, x_scales, self.scales, dtype, table)

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(t.numel() * t.element_size() for t in (self.matrix, self.scales, self.bias) if t is not None)


@dataclass(frozen=True, eq=False)
class _Layer:
    qkv: Weights
    o: Weights
    gate_up: Weights
    down: Weights
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    window: int

    @classmethod
    def of(cls, layer: LlamaLayer, kind: str) -> _Layer:
        return cls(
            qkv=Weights.of(layer.qkv, kind, layer.qkv_bias),
            o=Weights.of([layer.o], kind),
            gate_up=Weights.of([layer.gate, layer.up], kind),
            down=Weights.of([layer.down], kind),
            norms=layer.norms,
            window=layer.window,
        )


@dataclass(frozen=True, eq=False)
class _Graph:
    """A captured pass: its inputs stay where they are, and so do its logits."""

    inputs: PassInputs
    logits: Tensor
    graph: Any


class TritonModel:
    """Runs a Llama-like model on the Triton kernels; see `CausalLM` for the methods.

    The bits of a row's logits depend on its own prefix alone, as those of `NativeModel` do on a CPU.

    Args:
        module: the model, on its device; its weights are copied.
        name: what to call it in messages.
        kind: float32, float16, bfloat16, int8 (W8A8) or int8_weight.
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
        self.name = name or type(module).__name__
        if reason := why_not_triton(module):
            raise UnsupportedModelError(f"{self.name} cannot run on Triton: {reason}. Use backend='transformers'.")
        if kind not in KINDS:
            raise UnsupportedModelError(f"{self.name}: unknown kind {kind!r}. Valid names: {', '.join(KINDS)}.")
        require_finite(module, self.name)
        if interpreter.active():
            interpreter.install()
        config, base = module.config, module.model
        own = base.layers[0].self_attn
        self.kind, self._dtype, self._table = kind, KINDS[kind], table or LinearTable()
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._scale, self._eps = float(own.scaling), float(config.rms_norm_eps)
        self.vocab_size = int(module.get_output_embeddings().weight.shape[0])
        self.max_context = int(config.max_position_embeddings)
        held = kv_dtype or self._dtype
        self._attention = attention or config_for(self._dtype)
        self.kv_layout = KVLayout(len(base.layers), self._kv_heads, int(own.head_dim), held, module.device)
        self._layers = [_Layer.of(LlamaLayer.of(layer), kind) for layer in base.layers]
        self._head = Weights.of([module.get_output_embeddings().weight.data], kind)
        self._embedding = module.get_input_embeddings().weight.data.to(self._dtype).clone()
        self._final_norm = own_float(base.norm.weight)
        self._frequencies = own_float(base.rotary_emb.inv_freq)
        self._rope_factor = float(base.rotary_emb.attention_scaling)
        self._graphs: WeakKeyDictionary[KVPool, dict[tuple[int, ...], _Graph]] = WeakKeyDictionary()

    judges_on_device = True

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that every pass reads."""
        parts = [part for layer in self._layers for part in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        return self._head.num_bytes + sum(part.num_bytes for part in parts)

    @torch.inference_mode()
    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`. Where maxima alone are wanted the host waits for them once."""
        logits = self._logits(batch, pool)
        return PassOutput(logits) if wants.logits == "all" else PassOutput(None, row_maxima(logits))

    def _logits(self, batch: RaggedBatch, pool: KVPool) -> Tensor:
        inputs = PassInputs.of(batch, self._attention.rows_per_tile(self._heads, self._kv_heads))
        if len(inputs.tokens) > MOST_CAPTURED_ROWS or not len(inputs.logit_rows):
            return self._compute(inputs, pool)
        padded = inputs.padded(self._attention.split)
        run = self._replay if inputs.tokens.is_cuda else self._compute
        return run(padded, pool)[: len(inputs.logit_rows)]

    def truncated(self, num_layers: int) -> TritonModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        check_exit(self.name, self.kv_layout.num_layers, num_layers)
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        clone._layers, clone._graphs = self._layers[:num_layers], WeakKeyDictionary()
        return clone

    def _compute(self, inputs: PassInputs, pool: KVPool) -> Tensor:
        """The pass, launch by launch. float32 [logits, V]."""
        stream = self._embedding[inputs.tokens].float()
        delta: Tensor | None = None
        for index, layer in enumerate(self._layers):
            before_attention, before_feed_forward, query_norm, key_norm = layer.norms
            held = pool.layer(index)
            normed = rms_norm(stream, before_attention, self._eps, self._dtype, delta)
            qkv = layer.qkv(normed, self._dtype, self._table)
            norms = None if query_norm is None or key_norm is None else (query_norm, key_norm)
            queries = rope_and_write(
                qkv, held, inputs.plan.positions, inputs.slots, self._frequencies, self._heads, self._rope_factor,
                norms, self._eps,
            )  # fmt: skip
            attended = triton_attention(
                queries, held[0], held[1], inputs.plan, self._scale, layer.window or None, None, held[2], held[3],
                self._attention,
            )  # fmt: skip
            delta = layer.o(attended.flatten(1), self._dtype, self._table)
            normed = rms_norm(stream, before_feed_forward, self._eps, self._dtype, delta)
            gated = silu_mul(layer.gate_up(normed, self._dtype, self._table))
            delta = layer.down(gated, self._dtype, self._table)
        assert delta is not None
        wanted = inputs.logit_rows
        normed = rms_norm(stream[wanted], self._final_norm, self._eps, self._dtype, delta[wanted])
        return self._head(normed, torch.float32, self._table)

    def _replay(self, inputs: PassInputs, pool: KVPool) -> Tensor:
        """The same from a graph that was captured for this shape, or is now."""
        graphs = self._graphs.setdefault(pool, {})
        if inputs.shape not in graphs:
            graphs[inputs.shape] = _capture(inputs.clone(), lambda static: self._compute(static, pool))
        captured = graphs[inputs.shape]
        captured.inputs.copy_from(inputs)
        captured.graph.replay()
        return captured.logits.clone()  # the next replay writes over them


def _capture(static: PassInputs, compute: Callable[[PassInputs], Tensor]) -> _Graph:
    """Runs once aside, so that kernels are compiled, then once under capture."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        compute(static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = compute(static)
    return _Graph(static, logits, graph)
