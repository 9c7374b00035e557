"""The numbers at a cache's slots. Which slots belong to whom is not known here (see `paged`)."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache.layout import KVLayout
from specdec.errors import SpecdecError
from specdec.kernels.commit.native import NativeCommit, fits
from specdec.kernels.cpu import library as native


class Layout(Protocol):
    """What one token takes in a pool."""

    @property
    def device(self) -> torch.device | str:
        """Where the numbers are."""

    def bytes_per_token(self) -> int:
        """Bytes of one token's entry."""

    def empty(self, num_slots: int) -> list[Tensor]:
        """Memory for so many slots: tensors [num_slots, …] on the device; on a GPU dense ones."""


class Pool:
    """One kind of entry at every slot: a model's keys and values, a head's features, or what a drafter asks for.

    The entry at a slot must be a function of the tokens up to that slot alone. Then sequences may share it, and it
    follows its token through commit, rollback, fork and preemption with nothing more to do.

    Args:
        layout: what a token takes.
        num_slots: how many there are.

    Raises:
        SpecdecError: if the layout's tensors do not have one entry a slot.
    """

    def __init__(self, layout: Layout, num_slots: int) -> None:
        self.layout, self.num_slots = layout, num_slots
        self.tensors = layout.empty(num_slots)
        if any(len(tensor) != num_slots for tensor in self.tensors):
            shapes = [tuple(tensor.shape) for tensor in self.tensors]
            raise SpecdecError(f"{type(layout).__name__} makes {shapes} for {num_slots} slots: give one entry a slot.")

    @cached_property
    def commit(self) -> NativeCommit | None:
        """The CPU's kernel over the tensors, if there is one that knows their form."""
        kernels = native.library() if all(map(fits, self.tensors)) else None
        return None if kernels is None else NativeCommit(kernels, self.tensors)


class KVPool(Pool):
    """Keys and values of all layers of a model.

    Args:
        layout: shape and dtype of one token's entry.
        num_slots: how many slots there are.
    """

    layout: KVLayout

    def __init__(self, layout: KVLayout, num_slots: int) -> None:
        super().__init__(layout, num_slots)
        entries, scales = self.tensors[: 2 * layout.num_layers], self.tensors[2 * layout.num_layers :]
        self.keys: list[Tensor] = entries[0::2]
        """One tensor per layer, [slots, KV heads, head size]."""
        self.values: list[Tensor] = entries[1::2]
        self.key_scales: list[Tensor] = scales[0::2]
        """One tensor per layer, float32 [slots, KV heads], if entries are 8-bit numbers."""
        self.value_scales: list[Tensor] = scales[1::2]

    def layer(self, index: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Keys and values of one layer, [slots, KV heads, head size], and their scales, float32 [slots, KV heads], or
        None unless quantized."""
        scales = (self.key_scales[index], self.value_scales[index]) if self.layout.quantized else (None, None)
        return self.keys[index], self.values[index], *scales


def pool_of(layout: Layout, num_slots: int) -> Pool:
    """A pool of that layout: keys and values if it is a model's."""
    return KVPool(layout, num_slots) if isinstance(layout, KVLayout) else Pool(layout, num_slots)
