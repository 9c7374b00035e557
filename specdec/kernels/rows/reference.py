"""Decisions about one row in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specdec.randomness import RandomSource


def argmax(row: Tensor) -> tuple[int, float]:
    """See `specdec.kernels.rows.argmax`."""
    place = int(row.argmax())
    return place, float(row[place])


def largest(rows: Tensor, count: int) -> Tensor:
    """See `specdec.kernels.rows.largest`."""
    return rows.sort(dim=1, descending=True, stable=True).indices[:, :count].to(torch.int32)


def log_sums_exp(rows: Tensor) -> Tensor:
    """See `specdec.kernels.rows.log_sums_exp`. Row by row: all at once, torch may split a sum by the number of rows."""
    if not len(rows):
        return rows.new_empty(0, dtype=torch.float32)
    return torch.stack([torch.logsumexp(row.to(torch.float32), dim=0) for row in rows])


def forbid(rows: Tensor, allowed: Tensor) -> None:
    """See `specdec.kernels.rows.forbid`."""
    rows.masked_fill_(~allowed.to(rows.device), -math.inf)


def gumbel_argmax(row: Tensor, random: RandomSource, position: int) -> int:
    """See `specdec.kernels.rows.gumbel_argmax`."""
    return int((row + random.gumbel(position, len(row)).to(row.device)).argmax())


def gumbel_noise(random: RandomSource, position: int, size: int, ids: Tensor | None) -> Tensor:
    """See `specdec.kernels.rows.gumbel_noise`."""
    noise = random.gumbel(position, size if ids is None else int(ids.max()) + 1)
    return (noise if ids is None else noise[ids.cpu()]).float()
