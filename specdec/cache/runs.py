"""Runs of tokens in a radix tree, and what it is worth to keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specdec.cache.pool import Pool

Space = str | None
"""Texts of different spaces share nothing: the salt of a request."""


@dataclass(eq=False)
class Node:
    """A run of tokens, which follow those of the node's parent, and the blocks in which their entries lie.

    Args:
        parent: the node before it; None for the root of a space.
        tokens: of the run.
        start: tokens of the text before the run.
        blocks: those of the run's positions. If the run begins inside a block, the first of them holds the end of what
            stands before it too: the parent's last block is another one, with the same entries there.
        filled: drafter's pool → so many tokens of the text, counted from the first, have their entries in it.
        used: when it was last used, by the tree's own count.
        children: by their first tokens.
    """

    parent: Node | None = None
    tokens: tuple[int, ...] = ()
    start: int = 0
    blocks: list[int] = field(default_factory=list)
    filled: dict[Pool, int] = field(default_factory=dict)
    used: int = 0
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Tokens of the text up to the end of the run."""
        return self.start + len(self.tokens)

    def path(self) -> list[Node]:
        """The nodes from below the root to this one."""
        path = [self]
        while path[-1].parent is not None:
            path.append(path[-1].parent)
        return path[-2::-1]


Worth = Callable[[Node], float]
"""A policy of eviction: what it is worth to keep a leaf. The one that is worth least goes first."""


def recency(node: Node) -> float:
    """The least recently used leaf goes first (LRU)."""
    return node.used


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest beginning that two texts have in common: slices are compared, half as long each time."""
    agreed, differ = 0, min(len(a), len(b))
    a, b = tuple(a[:differ]), tuple(b[:differ])
    if a == b:
        return differ
    while differ - agreed > 1:
        middle = (agreed + differ) // 2
        if a[agreed:middle] == b[agreed:middle]:
            agreed = middle
        else:
            differ = middle
    return agreed
