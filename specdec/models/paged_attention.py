"""Our attention behind transformers' attention interface: how a pass reaches the paged cache from inside any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache, cached_property, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from specdec.cache import KVPool
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention import SequenceKeys, paged_attention, sequence_keys
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention, write
from specdec.kernels.attention.plan import AttentionPlan
from specdec.kernels.cpu import library as native
from specdec.kernels.device import triton_runs
from specdec.models.batch import RaggedBatch
from specdec.models.traits import size_of

ATTENTION_NAME = "specdec_paged"


class PagedPass(ABC):
    """Attention of one pass: writes the rows' keys and values into the cache, then reads every row's path.

    Args:
        batch: the rows.
        pool: where the keys and values are.
    """

    def __init__(self, batch: RaggedBatch, pool: KVPool) -> None:
        self._batch, self._pool = batch, pool

    @abstractmethod
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """[heads, T, head size] each → [T, heads, head size] in the query's dtype."""


class NativePass(PagedPass):
    """On the CPU's kernels, `kernels`; the cache may be of any kind that they hold."""

    def __init__(self, batch: RaggedBatch, pool: KVPool, kernels: native.Library) -> None:
        super().__init__(batch, pool)
        self._kernels, self._table = kernels, SequenceTable.of(batch.columns)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """See `PagedPass.attend`."""
        query, key, value = (rows.transpose(0, 1) for rows in (query, key, value))
        held = key_values(*self._pool.layer(layer))
        write(self._kernels, held, self._batch.write_slots, key, value)
        attended = native_attention(self._kernels, query, held, key.shape[1], self._table, **options)
        return attended.to(query.dtype)


class TorchPass(PagedPass):
    """In plain torch, over a cache in the module's own dtype."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """See `PagedPass.attend`."""
        query, key, value = (rows.transpose(0, 1) for rows in (query, key, value))
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        keys.index_copy_(0, self._batch.write_slots, key)
        values.index_copy_(0, self._batch.write_slots, value)
        return self._read(query, keys, values, options)

    def _read(self, query: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
        return paged_attention(query, keys, values, self._sequences, **options)

    @cached_property
    def _sequences(self) -> list[SequenceKeys]:
        return sequence_keys(self._batch.columns, self._batch.token_ids.device)


class TritonPass(TorchPass):
    """On a GPU: torch writes, the Triton kernel reads."""

    def _read(self, query: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
        from specdec.kernels.attention.triton import config_for, triton_attention

        config = config_for(query.dtype, query.shape[-1])
        plan = self._plan(config.rows_per_tile(query.shape[1], keys.shape[1]))
        return triton_attention(query, keys, values, plan, config=config, **options)

    def _plan(self, rows_per_tile: int) -> AttentionPlan:
        """Made once for all layers with so many heads."""
        if rows_per_tile not in self._plans:
            device = self._batch.token_ids.device
            self._plans[rows_per_tile] = AttentionPlan.of(self._batch.columns, rows_per_tile, device)
        return self._plans[rows_per_tile]

    @cached_property
    def _plans(self) -> dict[int, AttentionPlan]:
        return {}


def pass_on(device: torch.device | str, kernels: native.Library | None = None) -> Callable[..., PagedPass]:
    """What makes a pass of a batch and a pool there: on the native kernels if given, else on Triton's or in torch."""
    if kernels is not None:
        return partial(NativePass, kernels=kernels)
    return TritonPass if triton_runs(device) else TorchPass


_CURRENT: ContextVar[PagedPass | None] = ContextVar("specdec_pass", default=None)
"""The pass that runs in this thread: layers need not hand it down, so those that drop keyword arguments work too."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer: q, k, v of [1, heads, T, head size] → [1, T, heads, size]."""
    current = _CURRENT.get()
    if current is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} was called outside a specdec pass. Call model.set_attn_implementation('sdpa') to "
            "run it on its own."
        )
    scale, width = query.shape[-1] ** -0.5 if scaling is None else scaling, value.shape[-1]
    if width != key.shape[-1]:
        query, key, value = _of_one_width(query, key, value)
    out = current.attend(
        int(module.layer_idx),  # type: ignore[arg-type]
        query[0],
        key[0],
        value[0],
        scale=scale,
        window=sliding_window,
        softcap=softcap,
    )
    return (out if out.shape[-1] == width else out[..., :width]).unsqueeze(0), None


def _of_one_width(*parts: Tensor) -> tuple[Tensor, ...]:
    """Filled up with zeros, as the cache holds them: they add nothing to a product, and give zeros (DeepSeek)."""
    widest = max(part.shape[-1] for part in parts)
    return tuple(pad(part, (0, widest - part.shape[-1])) for part in parts)


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


def run(
    module: PreTrainedModel, batch: RaggedBatch, attention: PagedPass, taps: Sequence[int] = ()
) -> tuple[Tensor, Tensor | None]:
    """One flat batch, as a batch of one whose rows mind their own positions.

    Returns:
        Logits, float32 [R, V], and hidden states at the k boundaries `taps`, float32 [T, k, H], or None without any.

    Raises:
        UnsupportedModelError: if hidden states are wanted and the module does not give one for every boundary.
    """
    selects = takes_rows(module.__class__)
    token = _CURRENT.set(attention)
    try:
        output = module(
            input_ids=batch.token_ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            **({"logits_to_keep": batch.logit_rows} if selects else {}),
            **({"output_hidden_states": True} if taps else {}),
        )
    finally:
        _CURRENT.reset(token)
    logits: Tensor = output.logits[0] if selects else output.logits[0, batch.logit_rows]
    return logits.float(), _tapped(module, output.hidden_states or (), taps) if taps else None


@cache
def takes_rows(kind: type[PreTrainedModel]) -> bool:
    """Whether models of this class make the logits of chosen rows alone; others make all of them."""
    return "logits_to_keep" in signature(kind.forward).parameters


def _tapped(module: PreTrainedModel, states: Sequence[Tensor], taps: Sequence[int]) -> Tensor:
    boundaries = size_of(module, "num_hidden_layers") + 1
    chosen = [states[tap][0] for tap in taps] if len(states) == boundaries else []
    if len({state.shape for state in chosen}) != 1:
        widths = sorted({state.shape[-1] for state in states})
        raise UnsupportedModelError(
            f"{type(module).__name__} gives {len(states)} hidden states of widths {widths}, "
            f"not {boundaries} of one width between and around its layers. Use a drafter that needs none, or another "
            "model."
        )
    return torch.stack(chosen, 1).float()
