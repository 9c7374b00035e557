"""What the rows of a flat batch attend to, as the GPU kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from specdec.kernels.attention.columns import SequenceColumns
from specdec.kernels.device import upload

CHAIN = 2**30
"""Stands for "every position": so many keys of a chain's rows are shared by all of them."""


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """Which keys each row meets, and how rows are put together into tiles. All int32, on the kernels' device.

    A tile is a few neighbouring rows of one sequence. A row at position i attends to positions 0 .. i of its own path.
    The keys of positions below the tile's `shared` are the same for all its rows, and lie in `slots` one after the
    other from the tile's first slot on; those above are in `paths`, row by row.

    Args:
        tiles: [tiles, 4]: first row, number of rows, place of the first slot in `slots`, `shared`.
        positions: [rows], logical position; -1 for a row that is only padding.
        path_starts: [rows], where the row's own slots begin in `paths`; unused in a chain.
        slots, paths: cache slots.
        longest: largest position of all rows, plus one.
    """

    tiles: Tensor
    positions: Tensor
    path_starts: Tensor
    slots: Tensor
    paths: Tensor
    longest: int

    @classmethod
    def of(cls, columns: SequenceColumns, rows_per_tile: int, device: torch.device | str = "cpu") -> AttentionPlan:
        """On a device; see `PlanLists.of`."""
        lists = PlanLists.of(columns, rows_per_tile)
        tiles, positions, path_starts, slots, paths = upload(lists.tables, torch.int32, device)
        return cls(tiles.view(-1, 4), positions, path_starts, slots, paths, lists.longest)


class PlanLists(NamedTuple):
    """The tables of an `AttentionPlan` on the host, each with one dimension, in the order of its fields."""

    tables: tuple[Sequence[int] | Tensor, ...]
    longest: int

    @classmethod
    def of(cls, columns: SequenceColumns, rows_per_tile: int) -> PlanLists:
        """Tiles of at most `rows_per_tile` rows; paths are laid out in full, since a GPU is slow at following them.

        Args:
            columns: the sequences.
            rows_per_tile: most rows of a tile.
        """
        tiles: list[int] = []
        positions: list[int] = []
        path_starts: list[int] = []
        paths: list[int] = []
        begin = slot_start = 0
        sequences = zip(columns.rows, columns.committed, columns.first, columns.slots, columns.parents, strict=True)
        for count, kept, earlier, held, links in sequences:
            shared = CHAIN if links is None else kept
            for at in range(0, count, rows_per_tile):
                tiles += (begin + at, min(rows_per_tile, count - at), slot_start, shared)
            own = held[kept:].tolist() if links is not None else []
            for row in range(earlier, earlier + count):
                path_starts.append(len(paths))
                if links is None:
                    positions.append(kept + row)
                    continue
                path = [own[row]]
                ancestor = links[row]
                while ancestor >= 0:
                    path.append(own[ancestor])
                    ancestor = links[ancestor]
                positions.append(kept + len(path) - 1)
                paths.extend(reversed(path))
            begin, slot_start = begin + count, slot_start + len(held)
        held_slots = torch.cat(list(columns.slots)) if columns.slots else torch.empty(0, dtype=torch.int64)
        return cls((tiles, positions, path_starts, held_slots, paths or [0]), max(positions, default=-1) + 1)
