"""Computations on a GPU that are captured once for each shape and replayed: one launch in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specdec.cache import KVPool


class Inputs(Protocol):
    """Tensors that a computation reads."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order, on the host or the device."""

    def on(self, device: torch.device | str) -> Any:
        """The same with tensors of its own on the device."""


Given = TypeVar("Given", bound=Inputs)
Outputs = tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Captured(Generic[Given]):
    """A captured computation: its inputs stay where they are, and so do its outputs."""

    inputs: Given
    outputs: Outputs
    graph: Any


class Graphs(Generic[Given]):
    """Captured computations of one kind. Each reads and writes one pool, and ends with it."""

    def __init__(self) -> None:
        self.captured: WeakKeyDictionary[KVPool, dict[Hashable, Captured[Given]]] = WeakKeyDictionary()
        self.captures = 0
        """How many there were."""

    def replay(
        self,
        pool: KVPool,
        key: Hashable,
        inputs: Given,
        compute: Callable[[Given], Outputs],
    ) -> Outputs:
        """What `compute` gives, on a GPU from the graph that was captured under this key, or is now.

        Args:
            pool: that it reads and writes.
            key: all that a captured computation depends on but the numbers in its inputs.
            inputs: of this call.
            compute: leaves the host out: no result of the device is waited for, nothing is sent there. What it reads
                is on the device.
        """
        device = pool.layout.device
        if not can_capture(device):
            return compute(inputs.on(device))
        graphs = self.captured.setdefault(pool, {})
        if key not in graphs:
            graphs[key] = capture(inputs.on(device), compute)
            self.captures += 1
        captured = graphs[key]
        for own, new in zip(captured.inputs.tensors, inputs.tensors, strict=True):
            own.copy_(new, non_blocking=True)
        captured.graph.replay()
        # the next replay writes over the graph's own
        return tuple(None if output is None else output.clone() for output in captured.outputs)


def can_capture(device: torch.device | str) -> bool:
    """Whether there is anything to be captured: kernels that are interpreted leave nothing."""
    return torch.device(device).type == "cuda"


def capture(static: Given, compute: Callable[[Given], Outputs]) -> Captured[Given]:
    """Runs once aside, so that kernels are compiled, then once under capture."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        compute(static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = compute(static)
    return Captured(static, outputs, graph)
