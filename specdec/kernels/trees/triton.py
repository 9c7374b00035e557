"""One level of trees of the likeliest nodes on the GPU, for all texts in one launch, a program a tree.

A *candidate* is a node that a tree may get: K below each row that was run. It is known by its number, in the order in
which they are found. Its value is the product of the chances from the root down to it. A program keeps the values of
all candidates of its tree in registers, compares all with all, and so knows which are the best without sorting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

OUT = tl.constexpr(-1.0)
"""The value of a candidate that is none: it is below the floor, or its row was not run."""
AT_ONCE = tl.constexpr(16)
"""Candidates that all others are compared with together."""


@triton.jit
def _value(number, tree, values, numbers, real, chances, floor, FIRST: tl.constexpr, ROWS: tl.constexpr,
           K: tl.constexpr, WIDTH: tl.constexpr, CAPACITY: tl.constexpr):  # fmt: skip
    """float64: what earlier levels found, and from FIRST on what is below the rows that were just run."""
    known = tl.load(values + tree * CAPACITY + number, mask=number < FIRST, other=OUT)
    place = number - FIRST
    fresh = (place >= 0) & (place < ROWS * K)
    row = place // K
    chance = tl.load(chances + tree * ROWS * K + place, mask=fresh, other=0.0).to(tl.float64)
    if FIRST == 0:
        value = chance
        there = fresh & (real > 0)
    else:
        there = fresh & (row < real)
        above = tl.load(numbers + tree * WIDTH + row, mask=there, other=0)
        value = tl.load(values + tree * CAPACITY + above, mask=there, other=OUT) * chance
    value = tl.where(there & (value >= floor), value, OUT)
    return tl.where(number < FIRST, known, value)


@triton.jit
def level_kernel(
    tops, chances, ids, nodes, depths, bounds, lengths, room,
    values, odds, tokens, parents, kept, broken,
    run_above, counts_above, numbers_above, slots_above, run, counts, numbers, slots,
    row_tokens, row_slots, row_positions, rows_above,
    LEVEL: tl.constexpr, LEVELS: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, K: tl.constexpr,
    WIDTH: tl.constexpr, CAPACITY: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """Takes in what was found below a level's rows, and chooses the rows of the next one, or, at the end, the nodes.

    The first two lines of arguments are those of `GrowingTrees`. The next is of the level above, then of the next one:
    rows of the tree that were run so far, how many the level has, which candidates they are, the slots down to them.
    The last line: the next level's rows as a pass takes them, and the row above each.
    """
    tree = tl.program_id(0)
    most, depth = tl.load(nodes + tree), tl.load(depths + tree)
    floor, deepen = tl.load(bounds + 2 * tree), tl.load(bounds + 2 * tree + 1)
    real = most if FIRST == 0 else tl.load(counts_above + tree)
    number = tl.arange(0, BLOCK)
    value = _value(number, tree, values, numbers_above, real, chances, floor, FIRST, ROWS, K, WIDTH, CAPACITY)
    better, better_fresh = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for start in range(0, FIRST + ROWS * K, AT_ONCE):
        other = start + tl.arange(0, AT_ONCE)
        its = _value(other, tree, values, numbers_above, real, chances, floor, FIRST, ROWS, K, WIDTH, CAPACITY)
        first = (its[None, :] == value[:, None]) & (other[None, :] < number[:, None])
        wins = ((its[None, :] > value[:, None]) | first).to(tl.int32)
        better += tl.sum(wins, 1)
        better_fresh += tl.sum(tl.where(other[None, :] >= FIRST, wins, 0), 1)
    fits = (better < most) & (value > OUT)

    place = number - FIRST
    fresh = (place >= 0) & (place < ROWS * K)
    token = tl.load(ids + tl.load(tops + tree * ROWS * K + place, mask=fresh, other=0), mask=fresh, other=0)
    chance = tl.load(chances + tree * ROWS * K + place, mask=fresh, other=0.0)
    above = place // K
    there = fresh & (above < (tl.minimum(real, 1) if FIRST == 0 else real))
    tl.store(values + tree * CAPACITY + number, value, mask=fresh)
    tl.store(odds + tree * CAPACITY + number, chance.to(tl.float64), mask=fresh)
    tl.store(tokens + tree * CAPACITY + number, token, mask=fresh)
    if FIRST == 0:
        tl.store(parents + tree * CAPACITY + number, tl.zeros([BLOCK], tl.int64) - 1, mask=fresh)
    else:
        parent = tl.load(numbers_above + tree * WIDTH + above, mask=there, other=0)
        tl.store(parents + tree * CAPACITY + number, parent, mask=fresh)
    lost = there & (place % K == 0) & ~(chance - chance == 0.0)
    was = tl.load(broken + tree) if FIRST > 0 else tl.zeros([], tl.int64)
    tl.store(broken + tree, tl.maximum(was, tl.max(lost.to(tl.int64), 0)))

    if LEVEL == LEVELS:
        tl.store(kept + tree * CAPACITY + number, fits.to(tl.int64), mask=number < CAPACITY)
    else:
        done = tl.load(run_above + tree) if FIRST > 0 else tl.zeros([], tl.int32)
        later, spare = depth - 1 - LEVEL, most - done
        free = tl.minimum(tl.minimum(spare, WIDTH), tl.maximum(spare - later, 1))  # every level to come keeps a slot
        next_one = fits & fresh & (later >= 0) & (better_fresh < free)
        order = tl.cumsum(next_one.to(tl.int32), 0) - 1
        total = tl.sum(tl.where(next_one, value, 0.0), 0)
        count = tl.where(total >= deepen, tl.sum(next_one.to(tl.int32), 0), 0)
        next_one = next_one & (order < count)
        tl.store(counts + tree, count)
        slot = tl.load(room + tree * ROOM + done + order, mask=next_one, other=-1)
        at = tree * WIDTH + order
        tl.store(numbers + at, number, mask=next_one)
        tl.store(row_tokens + at, token, mask=next_one)
        tl.store(row_slots + at, slot, mask=next_one)
        tl.store(row_positions + at, tl.zeros([BLOCK], tl.int32) + tl.load(lengths + tree) + LEVEL - 1, mask=next_one)
        tl.store(rows_above + at, (tree * ROWS + above).to(tl.int64), mask=next_one)
        down = tl.arange(0, DEEP)
        path = tl.load(
            slots_above + (tree * ROWS + above[:, None]) * LEVELS + down[None, :],
            mask=next_one[:, None] & (down[None, :] < LEVEL - 1), other=-1,
        )  # fmt: skip
        path = tl.where(down[None, :] == LEVEL - 1, slot[:, None], path)
        tl.store(slots + at[:, None] * LEVELS + down[None, :], path,
                 mask=next_one[:, None] & (down[None, :] < LEVEL))  # fmt: skip
        idle = tl.arange(0, BLOCK)  # the rows that are none
        none = (idle >= count) & (idle < WIDTH)
        at = tree * WIDTH + idle
        tl.store(row_tokens + at, tl.zeros([BLOCK], tl.int64), mask=none)
        tl.store(row_slots + at, tl.zeros([BLOCK], tl.int32) - 1, mask=none)
        tl.store(row_positions + at, tl.zeros([BLOCK], tl.int32) - 1, mask=none)
        tl.store(rows_above + at, (tl.zeros([BLOCK], tl.int32) + tree * ROWS).to(tl.int64), mask=none)
        tl.store(run + tree, done + count)


@dataclass(frozen=True, eq=False)
class NextRows:
    """Rows of the next level, [B · W] each; those that are none have no slot, and are at position -1.

    Args:
        tokens: int64, in the target's numbers.
        slots, positions: int32.
        above: int64, of each its row among those that were just run.
        paths: int32 [B, W, levels], the slots down to a row, its own the last.
    """

    tokens: Tensor
    slots: Tensor
    positions: Tensor
    above: Tensor
    paths: Tensor


@dataclass(eq=False)
class GrowingTrees:
    """Trees of B texts that grow level by level. All tensors are on the device.

    Args:
        nodes, depths: int32 [B], most nodes of a tree, and most of them on a branch; 0 for a text that is only padding.
        bounds: float64 [B, 2], floor and deepen (see `TreeLimits`).
        lengths: int32 [B], tokens before the tree.
        room: int32 [B, N], slots of nodes.
        ids: int64 [V], the target's numbers of the tokens that scores are for.
        width: W, candidates of a node, and nodes of a level that are run.
        levels: at least the depth of every tree.
    """

    nodes: Tensor
    depths: Tensor
    bounds: Tensor
    lengths: Tensor
    room: Tensor
    ids: Tensor
    width: int
    levels: int

    def __post_init__(self) -> None:
        self._kept = min(self.width, len(self.ids))
        count, device = len(self.nodes), self.nodes.device
        capacity = self._kept * (1 + (self.levels - 1) * self.width)
        self._capacity, self._level = capacity, 0
        self.found = torch.empty(4 * count * capacity + count, dtype=torch.int64, device=device)
        """Of all candidates the bits of their chances in float64, their tokens, their parents' numbers (-1: none) and
        whether they are nodes, each [B, C]; and [B], whether a score was no number."""
        *tables, self._broken = torch.split(self.found, [count * capacity] * 4 + [count])
        self._tables = [tables[0].view(torch.float64), *tables[1:]]
        self._values = torch.empty(count, capacity, dtype=torch.float64, device=device)
        self._above = self._rows()

    def grow(self, tops: Tensor, chances: Tensor) -> NextRows | None:
        """Takes in what is below the rows that were just run.

        Args:
            tops, chances: [rows, W], see `specdec.kernels.rows.triton.tops`.

        Returns:
            What is run next; None after the last level.
        """
        count, level, rows = len(self.nodes), self._level + 1, self.width if self._level else 1
        first = self._kept * (1 + (level - 2) * self.width) if self._level else 0
        following, device = self._rows(), self.nodes.device
        size = count * self.width
        tokens, above = (torch.empty(size, dtype=torch.int64, device=device) for _ in range(2))
        slots, positions = (torch.empty(size, dtype=torch.int32, device=device) for _ in range(2))
        level_kernel[(count,)](
            tops, chances, self.ids, self.nodes, self.depths, self.bounds, self.lengths, self.room,
            self._values, *self._tables, self._broken, *self._above, *following, tokens, slots, positions, above,
            LEVEL=level, LEVELS=self.levels, FIRST=first, ROWS=rows, K=self._kept, WIDTH=self.width,
            CAPACITY=self._capacity, ROOM=self.room.shape[1], BLOCK=triton.next_power_of_2(self._capacity),
            DEEP=triton.next_power_of_2(self.levels),
        )  # fmt: skip
        self._above, self._level = following, level
        return None if level == self.levels else NextRows(tokens, slots, positions, above, following[-1])

    def _rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Room for what is told of a level: see `level_kernel`."""
        count, device = len(self.nodes), self.nodes.device
        run, counts = (torch.empty(count, dtype=torch.int32, device=device) for _ in range(2))
        numbers = torch.empty(count, self.width, dtype=torch.int32, device=device)
        return run, counts, numbers, torch.empty(count, self.width, self.levels, dtype=torch.int32, device=device)
