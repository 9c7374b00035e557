"""What a module asks of its attention, layer by layer: heard in a run whose attention answers with zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer

from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.traits import max_context

RECORDER_NAME = "specdec_recorder"
UNDERSTOOD = {
    *("scaling", "sliding_window", "softcap"),  # what our attention does
    *("dropout", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits",
      "logits_to_keep"),  # what does not concern it: nothing is dropped, positions are those of the batch
}  # fmt: skip
MEANINGS = {"s_aux": "attention sinks", "is_causal": "attention to later tokens"}
"""Keyword that reaches attention → what it stands for."""
ODD = -1
"""In place of a window: a mask that is neither causal nor causal within a window."""


@dataclass(frozen=True)
class LayerAsk:
    """What one layer asks.

    Args:
        shape: KV heads, size of a key, size of a value.
        window: the sliding window that attention is told of, or None.
        mask: the window of the mask that it gets, None for all that came before, `ODD` for another mask.
        has_mask: whether it gets one.
        others: names of what else it asks for, that our attention does not do.
    """

    shape: tuple[int, int, int]
    window: int | None
    mask: int | None
    has_mask: bool
    others: tuple[str, ...]


@dataclass
class _Recorder:
    calls: int = 0
    layers: dict[int, LayerAsk] = field(default_factory=dict)
    masks: dict[int, tuple[int | None, Tensor]] = field(default_factory=dict)
    """Where a mask lies in memory → its window, and the mask, which keeps the place taken."""


_RECORDER: ContextVar[_Recorder | None] = ContextVar("specdec_recorder", default=None)


@dataclass(frozen=True)
class Asks:
    """All that was heard.

    Args:
        calls: how often attention was called.
        layers: layer → what it asks.
        logits: of every row, [T, V]; their numbers mean nothing.
    """

    calls: int
    layers: dict[int, LayerAsk]
    logits: Tensor


def listen(module: PreTrainedModel, ids: list[int]) -> Asks:
    """Runs the tokens; the module's attention implementation is the recorder's afterwards."""
    module.set_attn_implementation(RECORDER_NAME)
    recorder = _Recorder()
    token = _RECORDER.set(recorder)
    try:
        rows = torch.tensor([ids], device=module.device)
        positions = torch.arange(len(ids), device=module.device)[None]
        logits = module(input_ids=rows, position_ids=positions, use_cache=False).logits[0]
    finally:
        _RECORDER.reset(token)
    return Asks(recorder.calls, recorder.layers, logits)


def why_not(ask: LayerAsk, kept: int | None, context: int) -> str | None:
    """Why our attention cannot do what a layer asks, in words that follow the model's name; None if it can.

    Args:
        ask: what it asks.
        kept: tokens that the layer's own cache keeps, or None for all.
        context: largest number of tokens in a text; a window of so many is none.
    """
    if ask.others:
        name = ask.others[0]
        meaning = f" ({MEANINGS[name]})" if name in MEANINGS else ""
        return f"hands its attention {name!r}{meaning}, which ours does not know"
    if ask.has_mask and ask.mask == ODD:
        return "masks its attention in a way that ours does not (chunks, both directions, or a mask of its own)"
    told, masked, kept = (
        None if window is None or window >= context else window for window in (ask.window, ask.mask, kept)
    )
    if ask.has_mask and masked != told:
        return f"masks its attention to {_tokens(masked)} but tells it {_tokens(told)}: ours goes by what it is told"
    if kept != told:
        return (
            f"keeps {_tokens(kept)} in its own cache but lets its attention see {_tokens(told)}: with and without a "
            "cache it writes two texts"
        )
    return None


def objection(module: PreTrainedModel, asks: Asks) -> str | None:
    """Why our attention cannot do what some layer of the module asks, or None; see `why_not`."""
    kept, context = _kept_by_own_cache(module), max_context(module)
    reasons = (why_not(ask, kept.get(layer, ask.window), context) for layer, ask in asks.layers.items())
    return next((reason for reason in reasons if reason is not None), None)


def _kept_by_own_cache(module: PreTrainedModel) -> dict[int, int | None]:
    """Layer → tokens that the cache keeps which transformers makes for this module, or None for all.

    Layers that read what another one keeps are left out.
    """
    layers = DynamicCache(config=module.config).layers
    return {
        index: int(layer.sliding_window) if getattr(layer, "is_sliding", False) else None
        for index, layer in enumerate(layers)
        if not isinstance(layer, DummyLayer)
    }


def why_not_within(module: PreTrainedModel, windows: Sequence[int]) -> str | None:
    """Why causal attention within these windows is not what the module asks for; None if it is.

    Args:
        module: run for two tokens; its attention implementation stays as it is.
        windows: of every layer, 0 for none.
    """
    own = module.config._attn_implementation
    try:
        with torch.inference_mode(), foreign(UnsupportedModelError, f"{type(module).__name__} cannot be run"):
            asks = listen(module, [0, 1])
    finally:
        module.set_attn_implementation(own)
    asked = [asks.layers[layer].window or 0 for layer in sorted(asks.layers)]
    if asked != list(windows):
        return f"attention is told windows of {asked}, where its layers have {list(windows)}"
    reason = objection(module, asks)
    return None if reason is None else f"it {reason}"


def _tokens(window: int | None) -> str:
    return "all tokens" if window is None else f"the last {window} tokens"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, None]:
    recorder = _RECORDER.get()
    if recorder is None:
        raise UnsupportedModelError(f"{type(module).__name__} was called outside of specdec's probe.")
    place = None if attention_mask is None else attention_mask.untyped_storage().data_ptr()
    window, _ = recorder.masks.get(place, (ODD, None)) if place is not None else (None, None)
    nothing = {"is_causal": True}  # what it does anyway
    others = [name for name, asked in options.items() if name not in UNDERSTOOD and asked is not nothing.get(name)]
    recorder.calls += 1
    recorder.layers[int(module.layer_idx)] = LayerAsk(  # type: ignore[arg-type]
        shape=(key.shape[1], key.shape[3], value.shape[3]),
        window=options.get("sliding_window"),
        mask=window,
        has_mask=attention_mask is not None,
        others=tuple(others),
    )
    return query.new_zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[3]), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    local_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor:
    """A mask of zeros, by whose place in memory a layer's mask is known again."""
    mask = torch.zeros(batch_size, 1, q_length, kv_length, dtype=dtype, device=device)
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.masks[mask.untyped_storage().data_ptr()] = _window(mask_function, local_size), mask
    return mask


def _window(mask_function: Callable[..., Any], local_size: int | None) -> int | None:
    """The window within which the mask is causal: seen at its borders, which lie far beyond the probe's tokens."""
    size = local_size or 8
    rows = torch.tensor(sorted({0, 1, 2, 5, size - 1, size, size + 1, 2 * size, 2 * size + 3}))[:, None]
    columns = torch.arange(2 * size + 6)[None, :]
    seen = (columns <= rows) & (columns > rows - (local_size or len(columns[0])))
    try:
        allowed = torch.as_tensor(mask_function(0, 0, rows, columns)).expand(seen.shape)
    except (IndexError, RuntimeError):  # it looks rows up in a table of the texts of this pass
        return ODD
    return local_size if torch.equal(allowed.cpu(), seen) else ODD


AttentionInterface.register(RECORDER_NAME, _attention)
AttentionMaskInterface.register(RECORDER_NAME, _mask)
