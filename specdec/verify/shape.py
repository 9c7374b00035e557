"""The shape of a draft: a tree without its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from specdec.checks import shown
from specdec.errors import ConfigError, SpecdecError

ROOT = -1
KINDS = 1024
"""Kinds of nodes that a drafter can tell apart."""
RANKS = 32
"""Depths, and ranks among siblings, that kinds of a shape tell apart."""


@dataclass(frozen=True)
class TreeShape:
    """A draft tree without its tokens. The constructors number nodes level by level.

    Args:
        parents: index of each of the N nodes' parent, `ROOT` for children of the last committed token.

    Raises:
        SpecdecError: if a node comes before its parent.
    """

    parents: tuple[int, ...] = ()
    depths: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Depth of each node: 0 for a child of the root."""

    def __post_init__(self) -> None:
        depths: list[int] = []
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise SpecdecError(
                    f"Draft tree: node {node} has parent {parent}; parents must come before their children."
                )
            depths.append(0 if parent == ROOT else depths[parent] + 1)
        object.__setattr__(self, "depths", tuple(depths))

    @classmethod
    def chain(cls, depth: int) -> TreeShape:
        """`depth` nodes, each the child of the one before it."""
        return cls(tuple(range(ROOT, depth - 1)))

    @classmethod
    def fork(cls, branches: int, depth: int) -> TreeShape:
        """`branches` children of the root, each continued as a chain of `depth` nodes in all."""
        return cls(tuple(max(node - branches, ROOT) for node in range(branches * depth)))

    @classmethod
    def choices(cls, paths: Iterable[Sequence[int]]) -> TreeShape:
        """A tree given by the ranks of its nodes among their siblings, as Medusa's trees are (Cai et al. 2024).

        Args:
            paths: of each node the ranks on the way to it, 0 for the likeliest child. What lies on the way to a node
                is part of the tree and need not be given.

        Raises:
            ConfigError: if a path is no list, or if a node is given without its likelier siblings: candidates are drawn
                best first, and the second of two cannot stand for the third.
        """
        paths = list(paths)
        if any(not isinstance(path, Sequence) for path in paths):
            raise ConfigError(
                f"Tree choices: {shown(paths)} is not a list of paths. Give each path as a list of ranks: "
                "[[0, 0], [1]]."
            )
        prefixes = {tuple(path[: length + 1]) for path in paths for length in range(len(path))}
        number = {(): ROOT} | {
            path: node for node, path in enumerate(sorted(prefixes, key=lambda path: (len(path), path)))
        }
        for path in prefixes:
            sibling = (*path[:-1], path[-1] - 1)
            if path[-1] != 0 and sibling not in prefixes:
                raise ConfigError(f"Tree choices: {list(path)} is given without {list(sibling)}. Ranks count from 0.")
        return cls(tuple(number[path[:-1]] for path in number if path))

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def depth(self) -> int:
        """Number of nodes on the longest branch."""
        return max(self.depths, default=-1) + 1

    @property
    def is_chain(self) -> bool:
        """Whether every node follows the one before it; true for the empty tree."""
        return self.parents == tuple(range(ROOT, len(self) - 1))

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """Nodes that have children, the root among them, in ascending order."""
        return tuple(sorted(set(self.parents)))

    @property
    def widest(self) -> int:
        """Most children of any node, the root included; 0 for the empty tree."""
        return max((self.parents.count(node) for node in self.inner), default=0)

    def children(self, node: int) -> list[int]:
        """Children of `node` (or of `ROOT`) in the order in which they were drawn."""
        return [child for child, parent in enumerate(self.parents) if parent == node]

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """Of each node a number that stands for its depth and its rank among its siblings, as in Sequoia's table
        (Chen et al. 2024): depth · `RANKS` + rank, each at most `RANKS` - 1."""
        seen: dict[int, int] = {}
        kinds: list[int] = []
        for depth, parent in zip(self.depths, self.parents, strict=True):
            rank = seen.get(parent, 0)
            seen[parent] = rank + 1
            kinds.append(min(depth, RANKS - 1) * RANKS + min(rank, RANKS - 1))
        return tuple(kinds)

    def truncated(self, depth: int) -> TreeShape:
        """The nodes of depth less than `depth`."""
        return self.of([node for node, d in enumerate(self.depths) if d < depth])

    def of(self, nodes: Sequence[int]) -> TreeShape:
        """The shape of some nodes alone, ascending, which are numbered anew; their parents must be among them."""
        return TreeShape(self.parents_of(nodes))

    def parents_of(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """The parents of some nodes, numbered as in `of`."""
        index = {ROOT: ROOT}
        for new, old in enumerate(nodes):
            index[old] = new
        return tuple([index[self.parents[node]] for node in nodes])
