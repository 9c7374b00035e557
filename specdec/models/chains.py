"""Chains that a model on the CPU's kernels drafts by itself: a pass for each token, all of them in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.models.rows import PassRows


@dataclass(frozen=True)
class ChainStop:
    """When a chain ends before its depth: with the first token whose survival, the product of the chances of acceptance
    down to it, is below a bound. By the largest chance of what it was taken from, a token is in one of some bins of
    equal width; it is accepted with the chance (accepted + weight · largest) / (tested + weight).

    Args:
        below: the bound.
        accepted, tested: of each bin, tokens that were.
        weight: above 0.
    """

    below: float
    accepted: Sequence[float]
    tested: Sequence[float]
    weight: float


NO_STOP = ChainStop(0.0, [0.0], [0.0], 1.0)


@dataclass(frozen=True)
class ChainDraw:
    """How a chain is drawn.

    Args:
        points: of each token where the cumulative distribution of q is inverted, in (0, 1); their number is the depth.
        temperature: nothing else is done to the logits; 0 takes the largest, and has no q.
        stop: ends it earlier.
    """

    points: Sequence[float]
    temperature: float
    stop: ChainStop | None = None

    @classmethod
    def largest(cls, depth: int) -> ChainDraw:
        """The largest logits, so many."""
        return cls((0.0,) * depth, 0.0)

    @property
    def depth(self) -> int:
        """Most tokens."""
        return len(self.points)


class DrawnChain(NamedTuple):
    """A chain.

    Args:
        tokens: the target's.
        q: what they were drawn from, float32 [n, V]; None if that is of no account.
        sureness: of each token the largest chance of what it was taken from.
    """

    tokens: list[int]
    q: Tensor | None
    sureness: list[float]


def draw_chains(
    kernels: native.Library,
    model: interface.Model,
    rows: PassRows,
    draws: Sequence[ChainDraw],
    target_size: int,
    ids: Tensor | None = None,
) -> list[DrawnChain | None]:
    """Chains behind the last rows of some sequences (kernels/passes/pairs.h).

    Args:
        kernels, model: who draws.
        rows: of each sequence the last row alone has logits, and its slots have room for the chain.
        draws: of each chain.
        target_size: V, tokens of the target.
        ids: int64, for each of the model's tokens which of the target's it is; None if they are the same.

    Returns:
        The chains; None if a score was no number.
    """
    count, stops = len(draws), [each.stop or NO_STOP for each in draws]
    depths = np.array([each.depth for each in draws], np.int64)
    most, bins = int(depths.max()), max(len(stop.tested) for stop in stops)
    points = np.zeros((count, most))
    for own, each in zip(points, draws, strict=True):
        own[: each.depth] = each.points
    temperatures = np.array([each.temperature for each in draws], np.float32)
    below = np.array([stop.below for stop in stops])
    known = np.zeros((2, count, bins))
    for index, stop in enumerate(stops):
        known[:, index, : len(stop.tested)] = stop.accepted, stop.tested
    tokens, sizes = np.empty((count, most), np.int32), np.empty(count, np.int64)
    largest, q = np.empty((count, most), np.float32), None
    if temperatures.any():
        q = torch.empty(count, most, target_size) if ids is None else torch.zeros(count, most, target_size)
    chains = interface.PairChains(
        most, target_size, *(each.ctypes.data for each in (depths, points, temperatures)),
        native.address(ids, torch.int64, (model.vocab_size,)),
        below.ctypes.data, bins, stops[0].weight, *(each.ctypes.data for each in (*known, tokens)), native.address(q),
        largest.ctypes.data, sizes.ctypes.data,
    )  # fmt: skip
    kernels.pairs_draw(model, rows.struct, chains, num_threads())
    return [
        None if size < 0 else DrawnChain(
            tokens[index, :size].tolist(),
            q[index, :size] if q is not None and draws[index].temperature else None,
            largest[index, :size].tolist(),
        )
        for index, size in enumerate(sizes.tolist())
    ]  # fmt: skip
