"""What drafters with a language model share: growing trees level by level, all sequences in one pass a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.cache.paged import PagedCache
from specdec.drafters.base import DraftRequest
from specdec.kernels.rows import RowMaxima
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.verify.tree import ROOT, DraftTree


@dataclass
class GrowingTree:
    """A draft under construction, and the slots that its rows use.

    Args:
        request: who asks.
        tail: committed tokens that the drafting model has not run yet, the last one included. They are the first
            reserved rows; node n is reserved row len(tail) + n.
        committed: tokens in the drafting model's cache.
        depth: longest branch wanted.
    """

    request: DraftRequest
    tail: Sequence[int]
    committed: int
    depth: int
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)
    level_start: int = 0
    """First node of the level that was drawn last; those nodes have not been run."""

    def rows(self, cache: PagedCache) -> SequenceRows:
        """The rows of the next pass: the tail at first, then the last level's nodes."""
        tail = len(self.tail)
        parents = [*range(-1, tail - 1), *(tail + parent if parent != ROOT else tail - 1 for parent in self.parents)]
        slots = cache.slots(self.request.request_id)
        if not self.tokens:
            return SequenceRows(self.tail, slots, self.committed, logit_rows=[tail - 1])
        run = self.tokens[self.level_start :]
        return SequenceRows(run, slots, self.committed, parents, tail + self.level_start, range(len(run)))

    def grow(self, logits: Tensor, branches: int) -> None:
        """Draws the children of the rows that were just run: `branches` at the root, one each below.

        Args:
            logits: float [R, V], of the root alone at first, then of each node of the last level.
            branches: children of the root.
        """
        nodes = [ROOT] if not self.tokens else list(range(self.level_start, len(self.tokens)))
        partial = self.tree()
        self.level_start = len(self.tokens)
        for node, row in zip(nodes, logits, strict=True):
            lanes = range(len(self.tokens), len(self.tokens) + (branches if node == ROOT else 1))
            drawn, q = self.request.draw(row, partial.prefix(node), lanes)
            self.tokens.extend(drawn)
            self.parents.extend([node] * len(drawn))
            if q is not None and drawn:
                self.q.append(q)

    def lengthen(self, best: RowMaxima) -> None:
        """Adds the argmax of the one row that was just run to a chain."""
        self.request.transform.require_mass(best.values)
        self.level_start = len(self.tokens)
        self.parents.append(self.level_start - 1)
        self.tokens.extend(best.tokens)

    def tree(self) -> DraftTree:
        """The draft as it stands."""
        return DraftTree(tuple(self.tokens), tuple(self.parents), torch.stack(self.q) if self.q else None)


def grow_trees(trees: Sequence[GrowingTree], model: CausalLM, cache: PagedCache, branches: int) -> list[DraftTree]:
    """Runs `model` once per level for all sequences together, until each has reached its depth.

    Slots for every tail and node must be reserved in `cache` beforehand.
    """
    device = model.kv_layout.device
    level = 0
    while active := [
        tree for tree in trees if tree.depth > level and (level == 0 or tree.level_start < len(tree.tokens))
    ]:
        batch = RaggedBatch.build([tree.rows(cache) for tree in active], device)
        argmax = branches == 1 and all(tree.request.by_argmax for tree in active)
        output = model.run(batch, cache.target, Wants(logits="argmax" if argmax else "all"))
        counts = [1 if not tree.tokens else len(tree.tokens) - tree.level_start for tree in active]
        for tree, rows in zip(active, output.split(counts, counts), strict=True):
            if rows.logits is None:
                tree.lengthen(rows.maxima)
            else:
                tree.grow(rows.logits, branches)
        level += 1
    return [tree.tree() for tree in trees]
