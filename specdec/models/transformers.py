"""Any Hugging Face causal LM, unchanged, over our paged cache and our attention."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from specdec.cache.paged import KVLayout, PagedCache
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention import paged_attention
from specdec.models.base import RaggedBatch, SequenceRows

ATTENTION_NAME = "specdec_paged"
PROBE_TOKENS = 12
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
PROBE_TOLERANCE_HALF = 5e-2


class TransformersModel:
    """Runs a `PreTrainedModel` through transformers' attention interface; see `CausalLM` for the methods.

    At construction a dozen tokens are run through our attention and through the model's own. An architecture that
    bypasses the interface, or needs something of its attention that ours does not do, is refused there.

    Args:
        module: the model, in evaluation mode, on its device. Its attention implementation is changed in place.
        name: what to call it in messages.

    Raises:
        UnsupportedModelError: if the architecture cannot run under our attention.
    """

    def __init__(self, module: PreTrainedModel, name: str = "") -> None:
        self.module = module.eval()
        self.name = name or type(module).__name__
        self.vocab_size = int(module.get_output_embeddings().weight.shape[0])
        self.max_context = int(getattr(module.config, "max_position_embeddings", 0)) or 2**31 - 1
        self.kv_layout = _probe(module, self.name)

    @torch.inference_mode()
    def forward(self, batch: RaggedBatch, cache: PagedCache) -> Tensor:
        """See `CausalLM.forward`."""
        return _run(self.module, batch, _PagedPass(batch, cache))

    def truncated(self, num_layers: int) -> TransformersModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        total = self.kv_layout.num_layers
        if not 1 <= num_layers < total:
            raise UnsupportedModelError(
                f"{self.name} has {total} layers; an early exit needs 1 to {total - 1} of them, got {num_layers}."
            )
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.module = _with_layers(self.module, num_layers)
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        return clone


class _PagedPass:
    """Attention of one pass: writes the rows' keys and values into the cache, then reads every row's path."""

    def __init__(self, batch: RaggedBatch, cache: PagedCache) -> None:
        self._batch, self._cache = batch, cache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys.index_copy_(0, self._batch.write_slots, key.transpose(0, 1))
        values.index_copy_(0, self._batch.write_slots, value.transpose(0, 1))
        return paged_attention(query.transpose(0, 1), keys, values, self._batch.sequences, **options)


class _Recorder:
    """Stands in for a pass: notes the shapes that the layers send, and answers with zeros."""

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[int, int, int]] = {}
        self.calls = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        self.calls += 1
        self.shapes[layer] = (key.shape[0], key.shape[2], value.shape[2])
        return query.new_zeros(query.shape[1], query.shape[0], value.shape[2])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    specdec_pass: _PagedPass | _Recorder | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer: q, k, v of [1, heads, T, head size] → [1, T, heads, size]."""
    if specdec_pass is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} was called outside a specdec pass, or drops the keyword arguments that reach "
            "attention. Use another model, or call model.set_attn_implementation('sdpa') to run it on its own."
        )
    out = specdec_pass.attend(
        int(module.layer_idx),  # type: ignore[arg-type]
        query[0],
        key[0],
        value[0],
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out.unsqueeze(0), None


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


def _run(module: PreTrainedModel, batch: RaggedBatch, attention: _PagedPass | _Recorder) -> Tensor:
    """Logits, float32 [R, V], of one flat batch, as a batch of one whose rows mind their own positions."""
    output = module(
        input_ids=batch.token_ids[None],
        position_ids=batch.positions[None],
        use_cache=False,
        logits_to_keep=batch.logit_rows,
        specdec_pass=attention,
    )
    logits: Tensor = output.logits[0]
    return logits.float()


def _probe(module: PreTrainedModel, name: str) -> KVLayout:
    """Reads the cache layout off a short run, and compares our attention with the model's own."""
    num_layers = int(module.config.num_hidden_layers)
    ids = torch.arange(3, 3 + PROBE_TOKENS, device=module.device) % int(module.config.vocab_size)
    with torch.inference_mode():
        expected = module(input_ids=ids[None], use_cache=False).logits[0].float()
        module.set_attn_implementation(ATTENTION_NAME)
        recorder = _Recorder()
        batch = _probe_batch(ids, torch.arange(PROBE_TOKENS))
        _run_probe(module, name, batch, recorder)
        shapes = set(recorder.shapes.values())
        if recorder.calls != num_layers or len(recorder.shapes) != num_layers:
            raise UnsupportedModelError(
                f"{name} ({type(module).__name__}) called our attention {recorder.calls} times in {num_layers} layers: "
                "its architecture bypasses transformers' attention interface. Choose one that uses it "
                "(Llama, Qwen, Mistral, Gemma, Phi-3, GPT-2, GPT-NeoX, OLMo, OPT, Mixtral and most newer ones do)."
            )
        if len(shapes) != 1 or (shape := next(iter(shapes)))[1] != shape[2]:
            raise UnsupportedModelError(
                f"{name} ({type(module).__name__}) has layers of different key/value shapes {sorted(shapes)}, which "
                "the paged cache does not hold. Choose a model with one shape for all layers."
            )
        layout = KVLayout(num_layers, shape[0], shape[1], module.dtype, module.device)
        cache = PagedCache(layout, num_blocks=1, block_size=PROBE_TOKENS)
        cache.add(0)
        cache.reserve(0, PROBE_TOKENS)
        batch = _probe_batch(ids, cache.slots(0))
        logits = _run_probe(module, name, batch, _PagedPass(batch, cache))
    error = float((logits - expected).abs().max())
    tolerance = PROBE_TOLERANCE.get(module.dtype, PROBE_TOLERANCE_HALF) * float(expected.abs().max())
    if not error <= tolerance:
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) gives other logits under our attention than under its own "
            f"(largest difference {error:.2e}, allowed {tolerance:.2e}): its attention does something that ours does "
            "not (attention sinks, ALiBi, a custom mask), or its weights hold NaN. Choose another architecture."
        )
    return layout


def _probe_batch(ids: Tensor, slots: Tensor) -> RaggedBatch:
    rows = SequenceRows(ids.tolist(), slots.to(ids.device), committed=0, logit_rows=range(len(ids)))
    return RaggedBatch.build([rows], ids.device)


def _run_probe(module: PreTrainedModel, name: str, batch: RaggedBatch, attention: _PagedPass | _Recorder) -> Tensor:
    try:
        return _run(module, batch, attention)
    except (TypeError, AttributeError, IndexError) as error:
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) cannot run a flat ragged batch: {error}. Choose another architecture."
        ) from error


def _with_layers(module: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A shallow copy whose list of layers is cut; every parameter is shared with `module`."""
    total = int(module.config.num_hidden_layers)
    base_name = module.base_model_prefix
    base = getattr(module, base_name)
    lists = [n for n, m in base.named_children() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__}: no single list of {total} layers found below {base_name!r}, "
            "so it cannot exit early. Use another drafter."
        )
    config = copy.deepcopy(module.config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    clone, base_clone = _shallow(module), _shallow(base)
    base_clone._modules[lists[0]] = nn.ModuleList(list(base._modules[lists[0]])[:num_layers])
    base_clone.config = clone.config = config
    clone._modules[base_name] = base_clone
    return clone


def _shallow(module: Any) -> Any:
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone
