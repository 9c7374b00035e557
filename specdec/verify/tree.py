"""The draft: a tree of guessed tokens. A chain is a tree with one branch.

Nodes are numbered so that parents come before children; siblings stand in the order in which they were drawn, which is
the order in which a rule tests them. The root is not a node: it is the last committed token, written `ROOT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from specdec.errors import SpecdecError

ROOT = -1


@dataclass(frozen=True)
class TreeShape:
    """Which node follows which, before any token is drawn."""

    parents: tuple[int, ...] = ()

    @classmethod
    def chain(cls, depth: int) -> TreeShape:
        return cls(tuple(range(ROOT, depth - 1)))

    @classmethod
    def fork(cls, branches: int, depth: int) -> TreeShape:
        return cls(tuple([ROOT] * branches if depth else []) + tuple(range(branches * max(depth - 1, 0))))

    @classmethod
    def choices(cls, paths: Iterable[Sequence[int]]) -> TreeShape:
        known = sorted({tuple(path[:n]) for path in paths for n in range(1, len(path) + 1)}, key=lambda p: (len(p), p))
        return cls(tuple(known.index(path[:-1]) if len(path) > 1 else ROOT for path in known))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        return max(self.depths, default=-1) + 1

    @property
    def widest(self) -> int:
        return max((self.parents.count(parent) for parent in set(self.parents)), default=0)

    def children(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def truncated(self, depth: int) -> TreeShape:
        return TreeShape(tuple(p for p, d in zip(self.parents, self.depths, strict=True) if d < depth))


@dataclass(frozen=True, eq=False)
class DraftTree:
    """Tokens guessed for one sequence in one step.

    Args:
        tokens: token id of each of the N nodes.
        parents: index of each node's parent, `ROOT` for children of the last committed token.
        q: float32 [N, V], the distribution that each node was drawn from, or None for a deterministic drafter
            (its q is one-hot, and no dense form is needed).
        kind: drafts that are accepted alike have the same number (an n-gram drafter's: the length of the match). Known
            before anything is drawn.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    q: Tensor | None = None
    kind: int = 0

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise SpecdecError(f"Draft tree: {len(self.tokens)} tokens but {len(self.parents)} parents.")
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise SpecdecError(
                    f"Draft tree: node {node} has parent {parent}; parents must come before their children."
                )
        if self.q is not None and len(self.q) > len(self.tokens):
            raise SpecdecError(f"Draft tree: {len(self.tokens)} nodes but q has {len(self.q)} rows.")

    @classmethod
    def chain(cls, tokens: Iterable[int], q: Tensor | None = None) -> DraftTree:
        """One branch: each token is the child of the one before it."""
        tokens = tuple(tokens)
        return cls(tokens, tuple(range(ROOT, len(tokens) - 1)), q)

    @classmethod
    def from_chains(cls, chains: Iterable[Sequence[int]], kind: int = 0) -> DraftTree:
        """The trie of several deterministic chains: common prefixes are shared, earlier chains are tested first."""
        tokens: list[int] = []
        parents: list[int] = []
        children: dict[tuple[int, int], int] = {}
        for chain in chains:
            parent = ROOT
            for token in chain:
                node = children.setdefault((parent, token), len(tokens))
                if node == len(tokens):
                    tokens.append(token)
                    parents.append(parent)
                parent = node
        return cls(tuple(tokens), tuple(parents), kind=kind)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node: 0 for a child of the root."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def is_chain(self) -> bool:
        """Whether every node follows the one before it; true for the empty tree."""
        return self.parents == tuple(range(ROOT, len(self) - 1))

    @property
    def depth(self) -> int:
        """Number of tokens on the longest branch."""
        return max(self.depths, default=-1) + 1

    def children(self, node: int) -> list[int]:
        """Children of `node` (or of `ROOT`) in the order in which they were drawn."""
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def refused(self, path: Sequence[int]) -> list[int]:
        """Candidates for the token after an accepted path, all of which were refused, since it ends there."""
        return self.children(path[-1] if path else ROOT)

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from the first token to `node`, itself included; empty for `ROOT`."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return tuple(reversed(nodes))

    def prefix(self, node: int) -> tuple[int, ...]:
        """Tokens on the path to `node`, its own included."""
        return tuple(self.tokens[n] for n in self.path(node))

    def pruned(self, dropped: Sequence[int]) -> DraftTree:
        """A deterministic draft without some nodes and all below them."""
        keep = [n for n in range(len(self)) if n not in dropped]
        index = {ROOT: ROOT} | {old: new for new, old in enumerate(keep)}
        return DraftTree(
            tuple(self.tokens[n] for n in keep), tuple(index[self.parents[n]] for n in keep), None, self.kind
        )

    def truncated(self, depth: int) -> DraftTree:
        """The nodes of depth less than `depth`. Depends on the shape alone, never on the tokens drawn."""
        if self.depth <= depth:
            return self
        kept = [node for node, d in enumerate(self.depths) if d < depth]
        index = {ROOT: ROOT} | {old: new for new, old in enumerate(kept)}
        return DraftTree(
            tuple(self.tokens[n] for n in kept),
            tuple(index[self.parents[n]] for n in kept),
            None if self.q is None else self.q[kept],
            self.kind,
        )


NO_DRAFT = DraftTree()
"""The empty tree."""
