"""Where the Triton kernels can run, and how small tables get there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._triton import has_triton

ALIGNED_BYTES = 64
"""To whose multiples every table begins: Triton compiles anew for pointers that are aligned otherwise."""
NUMPY = {torch.int32: np.int32, torch.int64: np.int64, torch.float64: np.float64}


def triton_runs(device: torch.device | str) -> bool:
    """Whether there is a GPU behind `device` that Triton compiles for, and Triton itself."""
    return torch.device(device).type == "cuda" and has_triton()


def wait_for(device: torch.device | str) -> None:
    """Waits until a GPU has done all that it was told: before that its time is not known. Nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, eq=False)
class Tables:
    """Lists of integers that lie in one buffer one after the other: one copy brings all of them to a device.

    Args:
        buffer: uint8 [n].
        spans: of each table where its bytes begin and end, and its dtype.
    """

    buffer: Tensor
    spans: tuple[tuple[int, int, torch.dtype], ...]

    @classmethod
    def of(
        cls, tables: Sequence[tuple[npt.ArrayLike | Tensor, torch.dtype]], device: torch.device | str = "cpu"
    ) -> Tables:
        """On the host, where a copy to `device` is fastest from.

        Args:
            tables: lists, arrays or tensors of one dimension, and the dtypes that they are to have.
            device: where they go later.
        """
        arrays = [np.asarray(table, NUMPY[dtype]) for table, dtype in tables]
        starts = [0, *accumulate(-(-array.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES for array in arrays)]
        buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
        held = buffer.numpy()
        for start, array in zip(starts, arrays, strict=False):
            held[start : start + array.nbytes] = array.view(np.uint8)
        spans = ((start, start + array.nbytes) for start, array in zip(starts, arrays, strict=False))
        return cls(buffer, tuple((*span, dtype) for span, (_, dtype) in zip(spans, tables, strict=True)))

    def on(self, device: torch.device | str) -> Tables:
        """A copy on a device, for which the host does not wait."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True, copy=True))

    @cached_property
    def each(self) -> list[Tensor]:
        """The tables, which share the buffer's memory."""
        return [self.buffer[start:end].view(dtype) for start, end, dtype in self.spans]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the tables, in bytes."""
        return tuple(end - start for start, end, _ in self.spans)


def upload(tables: Sequence[Tensor | Sequence[int]], dtype: torch.dtype, device: torch.device | str) -> list[Tensor]:
    """Several lists of integers in one copy to the device, for which the host does not wait. On the host a tensor of
    that dtype is itself the result.

    Args:
        tables: lists, or tensors [n] on the host.
        dtype: of the results, an integer type.
        device: where they go.
    """
    if torch.device(device).type == "cpu":
        return [torch.as_tensor(table, dtype=dtype) for table in tables]
    return Tables.of([(table, dtype) for table in tables], device).on(device).each
