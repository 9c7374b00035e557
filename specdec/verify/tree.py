"""The draft: a tree of guessed tokens. A chain is a tree with one branch.

Nodes are numbered so that parents come before children; siblings stand in the order in which they were drawn, which is
the order in which a rule tests them. The root is not a node: it is the last committed token, written `ROOT`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from specdec.errors import SpecdecError
from specdec.verify.shape import KINDS, ROOT, TreeShape

__all__ = ["KINDS", "ROOT", "DraftTree", "TreeShape"]


@dataclass(frozen=True, eq=False)
class DraftTree:
    """Tokens guessed for one sequence in one step.

    Args:
        tokens: token id of each of the N nodes.
        parents: index of each node's parent, `ROOT` for children of the last committed token.
        q: float32 [P, V], the distributions that nodes were drawn from: one row for the children of each of the P nodes
            that have some, the root first, in the order of their numbers (in a chain, row n for node n). None for a
            deterministic drafter: its q is one-hot, and no dense form is needed.
        kinds: a number from 0 to `KINDS` - 1 for each node, known before anything is drawn: once their parents are
            accepted, nodes of one kind are accepted at similar rates (an n-gram drafter's: by the length of the match).
            Empty: see `node_kinds`.
        chances: of each node the drafter's own estimate of that rate, in [0, 1]. Empty if it has none.

    Raises:
        SpecdecError: if these do not fit together, or a node comes before its parent.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    q: Tensor | None = None
    kinds: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
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
        for what, values in (("kinds", self.kinds), ("chances", self.chances)):
            if values and len(values) != len(self.tokens):
                raise SpecdecError(f"Draft tree: {len(self.tokens)} tokens but {len(values)} {what}.")

    @classmethod
    def chain(cls, tokens: Iterable[int], q: Tensor | None = None) -> DraftTree:
        """One branch: each token is the child of the one before it."""
        tokens = tuple(tokens)
        return cls(tokens, TreeShape.chain(len(tokens)).parents, q)

    @classmethod
    def from_chains(cls, chains: Iterable[Sequence[int]]) -> DraftTree:
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
        return cls(tuple(tokens), tuple(parents))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node: 0 for a child of the root."""
        return self.shape.depths

    @property
    def node_kinds(self) -> tuple[int, ...]:
        """`kinds`; if there are none, those of the shape."""
        return self.kinds or self.shape.kinds

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
        return replace(self.of(kept), q=None if self.q is None else self.q[rows])

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
        return self if len(kept) == len(self) else self.of(kept)

    def of(self, nodes: Sequence[int]) -> DraftTree:
        """Some nodes alone, ascending, without q; their parents must be among them."""
        tokens, kinds, chances = self.tokens, self.node_kinds, self.chances
        return DraftTree(
            tuple([tokens[node] for node in nodes]),
            self.shape.parents_of(nodes),
            None,
            tuple([kinds[node] for node in nodes]),
            tuple([chances[node] for node in nodes]) if chances else (),
        )
