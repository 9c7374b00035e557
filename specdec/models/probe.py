"""Can a model run under our attention? Found out at load, by comparing short runs with the model's own."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVLayout, PagedCache
from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.asks import Asks, listen, objection
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.paged_attention import ATTENTION_NAME, pass_on, run
from specdec.models.traits import max_context, size_of, text_config

PROBE_TOKENS = 12
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_HALF = 5e-2
KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
"""What transformers may tell a layer to be, of what our attention and our cache are enough for."""
REMEDY = "Choose another architecture."


def probe(module: PreTrainedModel, name: str) -> tuple[KVLayout, int]:
    """Reads the cache layout off a short run, and compares prefill, chunks and a mixed batch with the model's own.

    Args:
        module: the model; its attention implementation is ours afterwards.
        name: for messages.

    Returns:
        The layout, and the number of logits of a row.

    Raises:
        UnsupportedModelError: if it cannot work; its attention implementation is its own again then.
    """
    name = f"{name} ({type(module).__name__})"
    own = module.config._attn_implementation
    try:
        with torch.inference_mode(), foreign(UnsupportedModelError, f"{name} cannot run a flat ragged batch", REMEDY):
            return _probe(module, name)
    except BaseException:
        module.set_attn_implementation(own)
        raise


def _probe(module: PreTrainedModel, name: str) -> tuple[KVLayout, int]:
    if strange := set(getattr(text_config(module), "layer_types", None) or ()) - KNOWN_LAYER_TYPES:
        raise UnsupportedModelError(
            f"{name} bypasses transformers' attention interface in its layers of type {', '.join(sorted(strange))}: "
            f"our cache holds keys and values alone. {REMEDY}"
        )
    size = min(PROBE_TOKENS, max_context(module) - 1)
    first = [(3 + token) % _vocabulary(module) for token in range(size)]
    second = first[::-1][: size // 2]
    expected = [module(input_ids=torch.tensor([ids], device=module.device), use_cache=False).logits[0].float()
                for ids in (first, second)]  # fmt: skip
    layout = _layout(module, name, listen(module, first))
    module.set_attn_implementation(ATTENTION_NAME)
    _compare(name, layout, _whole(module, layout, first), expected[0], "prefill")
    _compare(name, layout, _chunked(module, layout, first, second), torch.cat(expected), "chunks and a mixed batch")
    _compare(name, layout, _whole(module, layout, first, [size - 1, 1]), expected[0][[size - 1, 1]], "chosen rows")
    return layout, expected[0].shape[-1]


def _vocabulary(module: PreTrainedModel) -> int:
    """Rows of the table of embeddings: tokens below may be asked for."""
    return int(module.get_input_embeddings().weight.shape[0])


def _layout(module: PreTrainedModel, name: str, asks: Asks) -> KVLayout:
    """What the cache must hold.

    Raises:
        UnsupportedModelError: if it cannot, or a layer asks for what our attention does not do.
    """
    num_layers = size_of(module, "num_hidden_layers")
    if asks.calls != num_layers or set(asks.layers) != set(range(num_layers)):
        raise UnsupportedModelError(
            f"{name} called our attention {asks.calls} times, for {len(asks.layers)} layers of {num_layers}: "
            "its architecture bypasses transformers' attention interface. Choose one that uses it "
            "(Llama, Qwen, Mistral, Gemma, Phi-3, GPT-2, GPT-NeoX, OLMo, OPT, Mixtral and most newer ones do)."
        )
    if reason := objection(module, asks):
        raise UnsupportedModelError(f"{name} {reason}. {REMEDY}")
    shapes = {ask.shape for ask in asks.layers.values()}
    heads, key_size, value_size = next(iter(shapes))
    if len(shapes) != 1:
        raise UnsupportedModelError(
            f"{name} has different key/value shapes (heads, key size, value size): {sorted(shapes)}. The paged cache "
            f"holds one shape for all layers. {REMEDY}"
        )
    return KVLayout(num_layers, heads, max(key_size, value_size), module.dtype, module.device)


def _whole(module: PreTrainedModel, layout: KVLayout, ids: list[int], logit_rows: list[int] | None = None) -> Tensor:
    cache = PagedCache(layout, num_blocks=1, block_size=len(ids))
    cache.add(0)
    return _pass(module, cache, {0: ids}, logit_rows)


def _chunked(module: PreTrainedModel, layout: KVLayout, first: list[int], second: list[int]) -> Tensor:
    """`first` in two chunks, the later of which shares its pass with `second`."""
    cache = PagedCache(layout, num_blocks=2, block_size=len(first))
    cache.add(0)
    cache.add(1)
    cut = len(first) // 2
    return torch.cat([_pass(module, cache, {0: first[:cut]}), _pass(module, cache, {0: first[cut:], 1: second})])


def _pass(
    module: PreTrainedModel, cache: PagedCache, chunks: dict[int, list[int]], logit_rows: list[int] | None = None
) -> Tensor:
    """Runs and commits one chunk of each sequence; logits of the rows of each, of all if left out."""
    parts = []
    for seq, ids in chunks.items():
        cache.reserve(seq, len(ids))
        wanted = range(len(ids)) if logit_rows is None else logit_rows
        parts.append(SequenceRows(ids, cache.slots(seq), cache.length(seq), logit_rows=wanted))
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
            "not (ALiBi, a mask of its own), it keeps a state outside the cache, or its weights hold NaN. "
            f"{REMEDY}"
        )
