"""Trees of the likeliest nodes on the GPU, all levels of all trees in one captured graph: the host waits once a draft.

`specdec/drafters/likeliest.py` says the same in plain Python, level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.attention.plan import AttentionPlan
from specdec.kernels.device import Tables
from specdec.kernels.markov import Grown
from specdec.kernels.rows.triton import tops
from specdec.kernels.trees.triton import GrowingTrees, NextRows
from specdec.models.batch import SequenceRows
from specdec.models.inputs import PackedPass, PassInputs, power_of_two
from specdec.models.pairs import TreeLimits

Step = Callable[[PassInputs], tuple[Tensor, Tensor]]
"""Runs rows: their logits, float32 [R, V], and the next states, float32 [R, H]."""


@dataclass(frozen=True, eq=False)
class TreeInputs:
    """What the trees of some texts begin with, on their way to the device.

    Args:
        rows: the pass whose last rows they grow below, one for each text; rounded up.
        tables: of each text, and of B - n that are only padding: most nodes, most of them on a branch, tokens before
            the tree; floor and deepen; slots of nodes; then the tiles of a level's rows, and where their paths begin.
        nodes, width, levels: most nodes of any tree; see `GrowingTrees`.
        longest: at least the position of every node, plus one.
    """

    rows: PackedPass
    tables: Tables
    nodes: int
    width: int
    levels: int
    longest: int

    @classmethod
    def of(
        cls,
        rows: PackedPass,
        parts: Sequence[SequenceRows],
        limits: Sequence[TreeLimits],
        rows_per_tile: int,
        device: torch.device | str,
        nodes: int,
        levels: int,
        longest: int,
    ) -> TreeInputs:
        """The number of texts is rounded up to a power of two.

        Args:
            rows, nodes, levels, longest: see the class.
            parts: of each text its last rows; behind them its slots have room for a tree.
            limits: of each tree; the width is that of the first.
            rows_per_tile: of the attention kernel.
            device: where all this goes.
        """
        count, width = power_of_two(len(parts)), limits[0].width
        idle, lengths = count - len(parts), [part.committed + len(part.tokens) for part in parts]
        room = np.zeros((count, nodes), np.int32)
        for own, part, length, limit in zip(room, parts, lengths, limits, strict=False):
            own[: limit.nodes] = part.slots[length : length + limit.nodes]
        bounds = [(limit.floor, limit.deepen) for limit in limits] + [(0.0, 0.0)] * idle
        starts = [*np.cumsum([0, *lengths[:-1]]).tolist(), *[0] * idle]
        lengths += [0] * idle
        tiles = [
            (text * width + at, min(rows_per_tile, width - at), starts[text], lengths[text])
            for text in range(count)
            for at in range(0, width, rows_per_tile)
        ]
        tables = Tables.of(
            [
                ([*(limit.nodes for limit in limits), *[0] * idle], torch.int32),
                ([*(limit.depth for limit in limits), *[0] * idle], torch.int32),
                (lengths, torch.int32),
                (np.array(bounds).ravel(), torch.float64),
                (room.ravel(), torch.int32),
                (np.array(tiles).ravel(), torch.int32),
                (np.arange(count * width) * levels, torch.int32),
            ],
            device,
        )
        return cls(rows, tables, nodes, width, levels, longest)

    @property
    def texts(self) -> int:
        """B, those that are only padding among them."""
        return self.tables.lengths[0] // 4

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [*self.rows.tensors, self.tables.buffer]

    @property
    def shape(self) -> tuple[object, ...]:
        """What a captured graph depends on."""
        return (self.rows.shape, self.tables.lengths, self.nodes, self.width, self.levels, self.longest)

    def on(self, device: torch.device | str) -> TreeInputs:
        """With tensors of its own there."""
        return replace(self, rows=self.rows.on(device), tables=self.tables.on(device))

    def grow(self, ids: Tensor, step: Step) -> Tensor:
        """All trees: see `GrowingTrees.found`.

        Args:
            ids: int64 [V], the target's tokens that the head knows.
            step: runs rows.
        """
        nodes, depths, lengths, bounds, room, tiles, path_starts = self.tables.each
        trees = GrowingTrees(nodes, depths, bounds, lengths, room.view(-1, self.nodes), ids, self.width, self.levels)
        slots = self.rows.inputs.plan.slots

        def rows_of(level: NextRows, states: Tensor) -> PassInputs:
            paths = level.paths.flatten()
            plan = AttentionPlan(tiles.view(-1, 4), level.positions, path_starts, slots, paths, self.longest)
            return PassInputs(level.tokens, level.slots, None, plan, states[level.above])

        logits, states = step(self.rows.inputs)
        while (level := trees.grow(*tops(logits, self.width))) is not None:
            logits, states = step(rows_of(level, states))
        return trees.found


def read_trees(found: Tensor, texts: int, count: int) -> list[Grown | None]:
    """The first `count` trees of what `TreeInputs.grow` gave for so many texts, on the host. Nodes are in the order in
    which they were found: parents first, likelier siblings first."""
    there = found.cpu().numpy()
    chances, tokens, parents, kept = there[:-texts].reshape(4, texts, -1)
    trees: list[Grown | None] = []
    for own, broken in zip(range(count), there[-texts:], strict=False):
        numbers = kept[own].nonzero()[0]
        places = np.append(kept[own].cumsum() - 1, -1)  # the last is of those that have no parent
        above = places[parents[own, numbers]]
        odds = chances[own, numbers].view(np.float64)
        trees.append(None if broken else Grown(tokens[own, numbers].tolist(), above.tolist(), odds.tolist()))
    return trees
