"""Accepted rows move together in the cache: all of a step at once, in every pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from specdec.cache.pool import Pool
from specdec.kernels.commit import reference
from specdec.kernels.device import triton_runs

Moves = tuple[Sequence[int], Sequence[int]]
"""Slots of one sequence that entries are copied from, and those that they go to. A slot may be in both, if it is a
source before it is a target, as in a path that moves towards its root."""


class Moving:
    """Moves entries in all pools of a cache.

    Args:
        pools: whose slots are numbered alike.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools, self._waiting, self._later = pools, list[Moves](), False

    def add(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Moves the entries of one sequence, now or at the end of `together`."""
        self._waiting.append((source, target))
        if not self._later:
            self._move()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, entries stay where they are; all of them move at the end. Until then nobody may read or write
        entries, or give out slots."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
            self._move()

    def _move(self) -> None:
        moves, self._waiting = self._waiting, []
        if moves:
            move(self._pools, moves)


def move(pools: Sequence[Pool], moves: Sequence[Moves]) -> None:
    """Copies entries in every tensor of all pools; on a GPU one launch serves all tensors that are alike.

    Args:
        pools: whose slots are numbered alike.
        moves: of sequences that share no slot.
    """
    there: dict[str, list[Tensor]] = {}
    for pool in pools:
        if triton_runs(pool.layout.device):
            there.setdefault(str(pool.layout.device), []).extend(pool.tensors)
        elif pool.commit is not None:
            pool.commit(*([slot for each in moves for slot in each[side]] for side in (0, 1)))
        else:
            reference.commit_paths(pool.tensors, moves)
    for tensors in there.values():
        from specdec.kernels.commit.triton import commit_paths

        commit_paths(tensors, moves)
