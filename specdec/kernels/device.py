"""Where the Triton kernels can run, and how small tables get there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._triton import has_triton

ALIGNED = 16
"""Numbers to whose multiples every table begins: Triton compiles anew for pointers that are aligned otherwise."""


def triton_runs(device: torch.device | str) -> bool:
    """Whether there is a GPU behind `device` that Triton compiles for, and Triton itself."""
    return torch.device(device).type == "cuda" and has_triton()


def wait_for(device: torch.device | str) -> None:
    """Waits until a GPU has done all that it was told: before that its time is not known. Nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def upload(tables: Sequence[Tensor | Sequence[int]], dtype: torch.dtype, device: torch.device | str) -> list[Tensor]:
    """Several lists of integers in one copy to the device, for which the host does not wait.

    Args:
        tables: lists, or tensors [n] on the host.
        dtype: of the results, an integer type.
        device: where they go.
    """
    parts = [table.to(dtype) if isinstance(table, Tensor) else torch.tensor(table, dtype=dtype) for table in tables]
    if torch.device(device).type != "cuda":
        return [part.to(device) for part in parts]
    rooms = [-(-len(part) // ALIGNED) * ALIGNED for part in parts]
    padded = [torch.nn.functional.pad(part, (0, room - len(part))) for part, room in zip(parts, rooms, strict=True)]
    joined = torch.cat(padded).pin_memory().to(device, non_blocking=True)
    return [table[: len(part)] for table, part in zip(torch.split(joined, rooms), parts, strict=True)]
