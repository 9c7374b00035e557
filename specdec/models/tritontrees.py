"""Trees of the likeliest nodes on the GPU, all levels of all trees in one captured graph: the host waits once a draft.

`specdec/drafters/likeliest.py` says the same in plain Python, level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.attention.plan import AttentionPlan
from specdec.kernels.device import upload
from specdec.kernels.markov import Grown
from specdec.kernels.rows.triton import chances_there
from specdec.models.batch import SequenceRows
from specdec.models.inputs import PassInputs, power_of_two
from specdec.models.pairs import TreeLimits

Step = Callable[[PassInputs], tuple[Tensor, Tensor]]
"""Runs rows: their logits, float32 [R, V], and the next states, float32 [R, H]."""
OUT = -1.0
"""The value of a candidate that is none: it is below the floor, or its row was not run."""


@dataclass(frozen=True, eq=False)
class TreeInputs:
    """What the trees of B texts begin with, on the device.

    Args:
        logits, states: float32 [B, V] and [B, H], what the texts' last rows gave.
        slots: int64 [n], the slots of all texts' tokens, one text after the other.
        starts, lengths: int64 [B], where those of a text begin, and how many there are.
        room: int64 [B, N], slots of nodes.
        nodes, depths: int64 [B], most nodes of a tree, and most of them on a branch; 0 for a text that is only padding.
        bounds: float64 [B, 2], floor and deepen (see `TreeLimits`).
    """

    logits: Tensor
    states: Tensor
    slots: Tensor
    starts: Tensor
    lengths: Tensor
    room: Tensor
    nodes: Tensor
    depths: Tensor
    bounds: Tensor

    @classmethod
    def of(
        cls, logits: Tensor, states: Tensor, parts: Sequence[SequenceRows], limits: Sequence[TreeLimits], most: int
    ) -> TreeInputs:
        """Texts and tokens are padded to powers of two, so that few different shapes occur.

        Args:
            logits, states: see the class.
            parts: of each text its last rows; behind them its slots have room for a tree.
            limits: of each tree.
            most: N, at least the nodes of every tree.
        """
        count = power_of_two(len(parts))
        idle, lengths = count - len(parts), [part.committed + len(part.tokens) for part in parts]
        slots = [part.slots[:length] for part, length in zip(parts, lengths, strict=True)]
        room = torch.zeros(count, most, dtype=torch.int64)
        for own, part, length, limit in zip(room, parts, lengths, limits, strict=False):
            own[: limit.nodes] = part.slots[length : length + limit.nodes]
        bounds = np.array([(limit.floor, limit.deepen) for limit in limits] + [(0.0, 0.0)] * idle)
        total = sum(lengths)
        tables = upload(
            [
                torch.cat([*slots, torch.zeros(power_of_two(total) - total, dtype=torch.int64)]),
                [*np.cumsum([0, *lengths[:-1]]).tolist(), *[0] * idle],
                [*lengths, *[0] * idle],
                room.flatten(),
                [*(limit.nodes for limit in limits), *[0] * idle],
                [*(limit.depth for limit in limits), *[0] * idle],
                torch.from_numpy(bounds.view(np.int64).ravel()),
            ],
            torch.int64,
            logits.device,
        )
        held, starts, long, places, nodes, depths, bits = tables
        behind, given = (torch.nn.functional.pad(each, (0, 0, 0, idle)) for each in (logits, states))
        edges = bits.view(torch.float64).view(-1, 2)
        return cls(behind, given, held, starts, long, places.view(count, most), nodes, depths, edges)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [getattr(self, each.name) for each in fields(self)]

    @property
    def shape(self) -> tuple[int, ...]:
        """What a captured graph depends on."""
        return (len(self.nodes), len(self.slots), self.room.shape[1])

    def clone(self) -> TreeInputs:
        """With tensors of its own."""
        return TreeInputs(*(tensor.clone() for tensor in self.tensors))


@dataclass(eq=False)
class TreeLevels:
    """Trees that grow level by level on the device.

    Args:
        given: what they begin with.
        ids: int64 [V], the target's tokens that the head knows.
        width: candidates of a node, and nodes of a level that are run.
        levels: at least the depth of every tree.
        longest: at least the position of every node, plus one.
        rows_per_tile: of the attention kernel.
    """

    given: TreeInputs
    ids: Tensor
    width: int
    levels: int
    longest: int
    rows_per_tile: int

    def grow(self, step: Step) -> Tensor:
        """All trees: int64 [B, 1 + 3 N]. Of each its size, or -1 if a score was no number; its tokens; the places of
        their parents, or -1; the bits of their chances in float64."""
        given = self.given
        count, device = len(given.nodes), given.nodes.device
        self.kept = min(self.width, given.logits.shape[1])
        none = torch.empty(count, 0, dtype=torch.int64, device=device)
        self.values, self.chances, self.tokens, self.parents = none.double(), none.double(), none, none
        self.run = torch.zeros_like(given.nodes)  # nodes that were run, or are run next
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)
        self.real = (given.nodes > 0)[:, None]  # which of the last level's rows are nodes,
        self.numbers = torch.full((count, 1), -1, dtype=torch.int64, device=device)  # which candidates they are,
        self.paths = torch.zeros(count, 1, self.levels, dtype=torch.int64, device=device)  # and the slots down to them
        logits, states = given.logits, given.states
        for level in range(1, self.levels + 1):
            first = self.values.shape[1]
            self._find(logits)
            if level < self.levels:
                before = self.numbers.shape[1]
                self._choose(first, level)
                above = ((self.numbers - first) // self.kept).clamp(0, before - 1)
                logits, states = step(self._rows(level, above, states.view(count, before, -1)))
        return self._given()

    def _find(self, logits: Tensor) -> None:
        """Takes in the candidates below the rows that were just run, row by row, the best of a row first."""
        count, rows = self.real.shape
        tops = _largest(logits, self.kept)
        found = chances_there(logits, tops).double().view(count, rows, self.kept)
        self.broken |= (self.real & ~found[:, :, 0].isfinite()).any(1)
        above = torch.ones_like(found[:, :, 0]) if self.values.shape[1] == 0 else self.values.gather(1, self.numbers)
        values = above[:, :, None] * found
        stays = self.real[:, :, None] & (values >= self.given.bounds[:, :1, None])
        values = torch.where(stays, values, OUT)
        parents = self.numbers[:, :, None].expand_as(found)
        self.values = torch.cat([self.values, values.flatten(1)], 1)
        self.chances = torch.cat([self.chances, found.flatten(1)], 1)
        self.tokens = torch.cat([self.tokens, self.ids[tops].view(count, -1)], 1)
        self.parents = torch.cat([self.parents, parents.flatten(1)], 1)

    def _best(self) -> tuple[Tensor, Tensor]:
        """All candidates by falling value, of equals the first, int64 [B, C], and which of them a tree has room for."""
        order = self.values.sort(dim=1, descending=True, stable=True).indices
        places = torch.arange(order.shape[1], device=order.device)
        return order, (places < self.given.nodes[:, None]) & (self.values.gather(1, order) > OUT)

    def _choose(self, first: int, level: int) -> None:
        """Which candidates, of those from `first` on, are run next. Every level to come is left a slot."""
        order, fits = self._best()
        spare, later = self.given.nodes - self.run, self.given.depths - 1 - level
        room = torch.minimum(spare.clamp(max=self.width), (spare - later).clamp(min=1))
        fresh = fits & (order >= first) & (later >= 0)[:, None]
        fresh &= fresh.cumsum(1) <= room[:, None]
        total = torch.where(fresh, self.values.gather(1, order), 0.0).sum(1)
        fresh &= (total >= self.given.bounds[:, 1])[:, None]
        self.numbers, self.real = _in_order(order, fresh, self.width)

    def _rows(self, level: int, above: Tensor, states: Tensor) -> PassInputs:
        """The next pass.

        Args:
            level: depth of its nodes below the text.
            above: int64 [B, r], of each node its parent among the rows of the last pass.
            states: what that one gave, [B, rows, H].
        """
        given, (count, rows) = self.given, self.real.shape
        node = self.run[:, None] + torch.arange(rows, device=above.device)
        slots = torch.where(self.real, given.room.gather(1, node.clamp(max=given.room.shape[1] - 1)), -1)
        self.run = self.run + self.real.sum(1)
        self.paths = _taken(self.paths, above)
        self.paths[:, :, level - 1] = slots
        tokens = torch.where(self.real, self.tokens.gather(1, self.numbers), 0)
        positions = torch.where(self.real, (given.lengths + level - 1)[:, None], -1)
        begin = torch.arange(count, device=above.device) * rows
        tiles = [
            torch.stack([begin + at, torch.full_like(begin, min(self.rows_per_tile, rows - at)), given.starts,
                         given.lengths], 1)
            for at in range(0, rows, self.rows_per_tile)
        ]  # fmt: skip
        everyone = torch.arange(count * rows, device=above.device)
        plan = AttentionPlan(
            torch.stack(tiles, 1).flatten(0, 1).int(),
            positions.flatten().int(),
            (everyone * self.levels).int(),
            given.slots.int(),
            self.paths.flatten().int(),
            self.longest,
        )
        fed = _taken(states, above).flatten(0, 1).contiguous()
        return PassInputs(tokens.flatten(), slots.flatten().int(), everyone, plan, fed)

    def _given(self) -> Tensor:
        """See `grow`. Nodes are in the order in which they were found: parents first, likelier siblings first."""
        order, fits = self._best()
        kept, real = _in_order(order, fits, self.given.room.shape[1])
        flags = torch.zeros_like(self.values, dtype=torch.int64).scatter(1, order, fits.long())
        parents = self.parents.gather(1, kept)
        places = torch.where(parents < 0, -1, (flags.cumsum(1) - 1).gather(1, parents.clamp(min=0)))
        sizes = torch.where(self.broken, -1, real.sum(1))
        chances = self.chances.gather(1, kept).view(torch.int64)
        return torch.cat([sizes[:, None], self.tokens.gather(1, kept), places, chances], 1)


def read_trees(told: Tensor, count: int) -> list[Grown | None]:
    """The first `count` trees of what `TreeLevels.grow` gave, on the host."""
    there = told[:count].cpu().numpy()
    most = (there.shape[1] - 1) // 3
    found: list[Grown | None] = []
    for row in there:
        size = int(row[0])
        tokens, parents, bits = (row[1 + at * most : 1 + at * most + max(size, 0)] for at in range(3))
        found.append(None if size < 0 else Grown(tokens.tolist(), parents.tolist(), bits.view(np.float64).tolist()))
    return found


def _largest(rows: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest of each row, int64 [R, count]: largest first, of equals the lowest first. Which of
    equals are left out where not all are told is the library's choice."""
    ids = rows.topk(count).indices.sort(1).values
    return ids.gather(1, rows.gather(1, ids).sort(dim=1, descending=True, stable=True).indices)


def _in_order(order: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The wanted ones of `order` by their numbers, int64 [B, r] with r = `most` or all, and which of these there are:
    behind the last one any number stands."""
    size = order.shape[1]
    numbers = torch.where(wanted, order, size).sort(1).values[:, :most]
    return numbers.clamp(max=size - 1), numbers < size


def _taken(rows: Tensor, places: Tensor) -> Tensor:
    """Of each text some rows: [B, n, w] and int64 [B, r] → [B, r, w]."""
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))
