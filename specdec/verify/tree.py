"""The draft: a tree of guessed tokens. A chain is a tree with one branch.

Nodes are numbered so that parents come before children; siblings stand in the order in which they were drawn, which is
the order in which a rule tests them. The root is not a node: it is the last committed token, written `ROOT`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from specdec.errors import ConfigError, SpecdecError

ROOT = -1


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
            ConfigError: if a node is given without its likelier siblings: candidates are drawn best first, and the
                second of two cannot stand for the third.
        """
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

    def truncated(self, depth: int) -> TreeShape:
        """The nodes of depth less than `depth`."""
        return self.of([node for node, d in enumerate(self.depths) if d < depth])

    def of(self, nodes: Sequence[int]) -> TreeShape:
        """The shape of some nodes alone, ascending, which are numbered anew; their parents must be among them."""
        index = {ROOT: ROOT} | {old: new for new, old in enumerate(nodes)}
        return TreeShape(tuple(index[self.parents[node]] for node in nodes))


@dataclass(frozen=True, eq=False)
class DraftTree:
    """Tokens guessed for one sequence in one step.

    Args:
        tokens: token id of each of the N nodes.
        parents: index of each node's parent, `ROOT` for children of the last committed token.
        q: float32 [P, V], the distributions that nodes were drawn from: one row for the children of each of the P nodes
            that have some, the root first, in the order of their numbers (in a chain, row n for node n). None for a
            deterministic drafter: its q is one-hot, and no dense form is needed.
        kind: drafts of one kind are accepted at similar rates (an n-gram drafter's: the length of the match). Known
            before anything is drawn.

    Raises:
        SpecdecError: if the three do not fit together, or a node comes before its parent.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    q: Tensor | None = None
    kind: int = 0
    shape: TreeShape = field(init=False, repr=False)
    """The tree without its tokens."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise SpecdecError(f"Draft tree: {len(self.tokens)} tokens but {len(self.parents)} parents.")
        shape = TreeShape(self.parents)
        object.__setattr__(self, "shape", shape)
        if self.q is not None and len(self.q) != len(shape.inner):
            raise SpecdecError(
                f"Draft tree: {len(shape.inner)} nodes have children (the root counts) but q has {len(self.q)} rows."
            )

    @classmethod
    def chain(cls, tokens: Iterable[int], q: Tensor | None = None) -> DraftTree:
        """One branch: each token is the child of the one before it."""
        tokens = tuple(tokens)
        return cls(tokens, TreeShape.chain(len(tokens)).parents, q)

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

    @property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node: 0 for a child of the root."""
        return self.shape.depths

    @property
    def is_chain(self) -> bool:
        """Whether every node follows the one before it; true for the empty tree."""
        return self.shape.is_chain

    @property
    def depth(self) -> int:
        """Number of tokens on the longest branch."""
        return self.shape.depth

    def children(self, node: int) -> list[int]:
        """Children of `node` (or of `ROOT`) in the order in which they were drawn."""
        return self.shape.children(node)

    def q_below(self, node: int) -> Tensor | None:
        """What the children of `node` (or of `ROOT`) were drawn from, float32 [V]; None if it has none, or no q."""
        inner = self.shape.inner
        return None if self.q is None or node not in inner else self.q[inner.index(node)]

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

    def truncated(self, depth: int) -> DraftTree:
        """The nodes of depth less than `depth`. Depends on the shape alone, never on the tokens drawn."""
        if self.depth <= depth:
            return self
        kept = [node for node, d in enumerate(self.depths) if d < depth]
        rows = [row for row, node in enumerate(self.shape.inner) if self.children(node)[0] in kept]
        return replace(self._of(kept), q=None if self.q is None else self.q[rows])

    def pruned(self, dropped: Collection[int]) -> DraftTree:
        """The tree without some nodes and all that is below them.

        A deterministic draft may lose what the target cannot emit. A draft that was drawn may not: to drop a token
        because of what it is changes the law of what is left (docs/losslessness.md, mutants).

        Raises:
            SpecdecError: if the draft was drawn from a q.
        """
        if self.q is not None:
            raise SpecdecError("Draft tree: tokens that were drawn from q cannot be dropped. Let the rule refuse them.")
        kept: list[int] = []
        for node, parent in enumerate(self.parents):
            if node not in dropped and (parent == ROOT or parent in kept):
                kept.append(node)
        return self if len(kept) == len(self) else self._of(kept)

    def _of(self, nodes: Sequence[int]) -> DraftTree:
        """Some nodes alone, without q."""
        return DraftTree(tuple(self.tokens[n] for n in nodes), self.shape.of(nodes).parents, kind=self.kind)
