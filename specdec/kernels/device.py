"""Where the Triton kernels can run."""

from __future__ import annotations

import torch
from torch.utils._triton import has_triton


def triton_runs(device: torch.device | str) -> bool:
    """Whether there is a GPU behind `device` that Triton compiles for, and Triton itself."""
    return torch.device(device).type == "cuda" and has_triton()
