"""What a decision needs to know of a row of scores, on the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.verdicts.triton import BLOCK, stats_kernel


def chances(rows: Tensor, ids: Tensor, block: int = BLOCK) -> Tensor:
    """See `chances_there`; the host waits for what it gives, float32 [R, k].

    Args:
        rows, block: see there.
        ids: int32 [R, k], on the host.
    """
    return chances_there(rows, ids.to(rows.device, torch.int64), block).cpu()


def chances_there(rows: Tensor, ids: Tensor, block: int = BLOCK) -> Tensor:
    """The softmax of each row at some of its places; the sum of a row runs in float64, in an order that no other row
    can change.

    Args:
        rows: float [R, V]; the last dimension must be dense.
        ids: int64 [R, k].
        block: scores that are looked at together.

    Returns:
        float32 [R, k]; NaN in rows that hold one.
    """
    count, device = len(rows), rows.device
    if not count:
        return torch.empty(ids.shape, device=device)
    sums, zeros = (torch.zeros(count, dtype=kind, device=device) for kind in (torch.float64, torch.int64))
    largest, best = torch.empty(count, device=device), torch.empty(count, dtype=torch.int32, device=device)
    stats_kernel[(count,)](
        rows, torch.ones(count, device=device), zeros, zeros, rows.stride(0), rows.shape[1], sums, largest, best,
        BLOCK=block, NOISY=False, SUMS=True,
    )  # fmt: skip
    return (rows.gather(1, ids).double() - sums[:, None]).exp().float()
