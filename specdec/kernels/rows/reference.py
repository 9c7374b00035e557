"""Decisions about one row in plain torch."""

from __future__ import annotations

from torch import Tensor

from specdec.randomness import RandomSource


def argmax(row: Tensor) -> tuple[int, float]:
    """See `specdec.kernels.rows.argmax`."""
    place = int(row.argmax())
    return place, float(row[place])


def gumbel_argmax(row: Tensor, random: RandomSource, position: int) -> int:
    """See `specdec.kernels.rows.gumbel_argmax`."""
    return int((row + random.gumbel(position, len(row)).to(row.device)).argmax())
