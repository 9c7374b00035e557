"""Can a model run under our attention? Found out at load, by comparing short runs with the model's own."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, PagedCache
from specdec.errors import UnsupportedModelError
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.paged_attention import ATTENTION_NAME, ShapeRecorder, pass_on, run

PROBE_TOKENS = 12
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_HALF = 5e-2
KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
"""What transformers may tell a layer to do in its mask, which we do not see, and what our attention does for it."""
REMEDY = "Choose another architecture."


def probe(module: PreTrainedModel, name: str) -> KVLayout:
    """Reads the cache layout off a short run, and compares prefill, chunks and a mixed batch with the model's own.

    Args:
        module: the model; its attention implementation is ours afterwards.
        name: for messages.

    Raises:
        UnsupportedModelError: if it cannot work; its attention implementation is its own again then.
    """
    own = module.config._attn_implementation
    try:
        with torch.inference_mode():
            return _probe(module, f"{name} ({type(module).__name__})")
    except UnsupportedModelError:
        module.set_attn_implementation(own)
        raise
    except (TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:
        module.set_attn_implementation(own)
        raise UnsupportedModelError(
            f"{name} ({type(module).__name__}) cannot run a flat ragged batch: {error}. {REMEDY}"
        ) from error


def _probe(module: PreTrainedModel, name: str) -> KVLayout:
    if strange := set(getattr(module.config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES:
        raise UnsupportedModelError(
            f"{name} bypasses transformers' attention interface in its layers of type {sorted(strange)}. {REMEDY}"
        )
    size = min(PROBE_TOKENS, max_context(module) - 1)
    first = (torch.arange(3, 3 + size) % int(module.config.vocab_size)).tolist()
    second = first[::-1][: size // 2]
    expected = [module(input_ids=torch.tensor([ids], device=module.device), use_cache=False).logits[0].float()
                for ids in (first, second)]  # fmt: skip
    module.set_attn_implementation(ATTENTION_NAME)
    layout = _layout(module, name, first)
    _compare(name, layout, _whole(module, layout, first), expected[0], "prefill")
    _compare(name, layout, _chunked(module, layout, first, second), torch.cat(expected), "chunks and a mixed batch")
    return layout


def _layout(module: PreTrainedModel, name: str, ids: list[int]) -> KVLayout:
    """Shapes of keys and values, from a run whose attention answers with zeros."""
    num_layers = int(module.config.num_hidden_layers)
    recorder = ShapeRecorder()
    rows = SequenceRows(ids, torch.arange(len(ids), device=module.device), committed=0, logit_rows=range(len(ids)))
    run(module, RaggedBatch.build([rows], module.device), recorder)
    shapes = set(recorder.shapes.values())
    if recorder.calls != num_layers or len(recorder.shapes) != num_layers:
        raise UnsupportedModelError(
            f"{name} called our attention {recorder.calls} times in {num_layers} layers: "
            "its architecture bypasses transformers' attention interface. Choose one that uses it "
            "(Llama, Qwen, Mistral, Gemma, Phi-3, GPT-2, GPT-NeoX, OLMo, OPT, Mixtral and most newer ones do)."
        )
    heads, key_size, value_size = next(iter(shapes))
    if len(shapes) != 1 or key_size != value_size:
        raise UnsupportedModelError(
            f"{name} has different key/value shapes (heads, key size, value size): {sorted(shapes)}. The paged cache "
            f"holds one shape for keys, values and all layers. {REMEDY}"
        )
    return KVLayout(num_layers, heads, key_size, module.dtype, module.device)


def _whole(module: PreTrainedModel, layout: KVLayout, ids: list[int]) -> Tensor:
    cache = PagedCache(layout, num_blocks=1, block_size=len(ids))
    cache.add(0)
    return _pass(module, cache, {0: ids})


def _chunked(module: PreTrainedModel, layout: KVLayout, first: list[int], second: list[int]) -> Tensor:
    """`first` in two chunks, the later of which shares its pass with `second`."""
    cache = PagedCache(layout, num_blocks=2, block_size=len(first))
    cache.add(0)
    cache.add(1)
    cut = len(first) // 2
    return torch.cat([_pass(module, cache, {0: first[:cut]}), _pass(module, cache, {0: first[cut:], 1: second})])


def _pass(module: PreTrainedModel, cache: PagedCache, chunks: dict[int, list[int]]) -> Tensor:
    """Runs and commits one chunk of each sequence; logits of every row."""
    parts = []
    for seq, ids in chunks.items():
        cache.reserve(seq, len(ids))
        parts.append(SequenceRows(ids, cache.slots(seq), cache.length(seq), logit_rows=range(len(ids))))
    batch = RaggedBatch.build(parts, module.device)
    logits, _ = run(module, batch, pass_on(module.device)(batch, cache.target))
    for seq, ids in chunks.items():
        cache.commit(seq, len(ids))
    return logits


def _compare(name: str, layout: KVLayout, logits: Tensor, expected: Tensor, what: str) -> None:
    error = float((logits - expected).abs().max())
    tolerance = TOLERANCE.get(layout.dtype, TOLERANCE_HALF) * float(expected.abs().max())
    if not error <= tolerance:
        raise UnsupportedModelError(
            f"{name} gives other logits under our attention than under its own, in {what} "
            f"(largest difference {error:.2e}, allowed {tolerance:.2e}): its attention does something that ours does "
            "not (attention sinks, ALiBi, a custom mask), it keeps a state outside the cache, or its weights hold NaN. "
            f"{REMEDY}"
        )


def max_context(module: PreTrainedModel) -> int:
    """Largest number of tokens in a sequence.

    LongRoPE changes all rotations once any sequence of the pass exceeds the original length: that far it is sound.
    """
    config = module.config
    context = int(getattr(config, "max_position_embeddings", 0)) or 2**31 - 1
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        context = min(context, int(rope.get("original_max_position_embeddings", context)))
    return context
