"""A layer of a Llama-like model as kernels run it: its matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from specdec.models.llama import LlamaLayer


class Product(Protocol):
    """x Wᵀ + b, with weights in the form that a backend's kernels take."""

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""

    @property
    def width(self) -> int:
        """Columns of the output."""

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of W as they are rounded, float32 [n, K]; ids: int64 [n]."""


P = TypeVar("P", bound=Product)
M = TypeVar("M")


@dataclass(frozen=True, eq=False)
class LayerProducts(Generic[P]):
    """One layer as kernels run it: weights that multiply the same input are stacked.

    Args:
        qkv, o, gate_up, down: see `LlamaLayer`.
        norms, window: likewise.
        attends, feeds: whether its attention and its feed-forward part are run.
    """

    qkv: P
    o: P
    gate_up: P
    down: P
    norms: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    window: int
    attends: bool = True
    feeds: bool = True

    @classmethod
    def of(cls, layer: LlamaLayer, stack: Callable[..., P]) -> LayerProducts[P]:
        """From a layer whose matrices are dense; `stack`: see `Assembly`."""
        return cls(
            qkv=stack(layer.qkv, layer.qkv_bias),
            o=stack([layer.o]),
            gate_up=stack([layer.gate, layer.up], gated=True),
            down=stack([layer.down]),
            norms=layer.norms,
            window=layer.window,
        )

    def each(self, change: Callable[[P], P]) -> LayerProducts[P]:
        """The layer with other matrices."""
        qkv, o, gate_up, down = (change(part) for part in (self.qkv, self.o, self.gate_up, self.down))
        return replace(self, qkv=qkv, o=o, gate_up=gate_up, down=down)

    @property
    def num_bytes(self) -> int:
        """Bytes that the products read."""
        run = (self.qkv, self.o) * self.attends + (self.gate_up, self.down) * self.feeds
        return sum(part.num_bytes for part in run)


@dataclass(frozen=True)
class Assembly(Generic[P, M]):
    """How a backend's kernels hold a model that comes in blocks.

    Args:
        stack: a product of matrices, one below the other, of their biases, if there are any, and of whether they are a
            gate and its values.
        make: a model of its sizes, layers, head, embedding, name, kind of weights and dtype of the cache.
        device: where its other numbers are.
    """

    stack: Callable[..., P]
    make: Callable[..., M]
    device: torch.device | str = "cpu"
