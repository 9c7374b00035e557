"""What earlier texts have left in the blocks: a radix tree of token runs (Zheng et al. 2023, SGLang, arXiv 2312.07104).

The tree compares tokens, not hashes of them, so two texts never collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from specdec.cache.blocks import BlockAllocator
from specdec.cache.pool import Pool
from specdec.cache.runs import Node, Space, Worth, common, recency
from specdec.errors import SpecdecError


@dataclass(frozen=True)
class Match:
    """How much of a text is in the tree. It holds until the tree or a sequence changes.

    Args:
        length: tokens.
        blocks: of their positions.
        node: the last node of their path; None if nothing was found.
        filled: drafter's pool → so many of the tokens have their entries in it.
    """

    length: int = 0
    blocks: tuple[int, ...] = ()
    node: Node | None = None
    filled: Mapping[Pool, int] = field(default_factory=dict)


NOTHING = Match()


class PrefixTree:
    """Keeps the blocks of committed tokens when their sequence has gone, for texts that begin alike.

    It holds what lies in a block, and never writes. A node's blocks are in use while a sequence has them in its table;
    that is the lock: they may leave the tree, but not the sequence. All others can be had back (`evict`).

    Args:
        allocator: of the blocks.
        block_size: tokens of one.
        worth: which leaf is evicted first.
    """

    def __init__(self, allocator: BlockAllocator, block_size: int, worth: Worth = recency) -> None:
        self._allocator, self._block_size, self._worth = allocator, block_size, worth
        self._roots: dict[Space, Node] = {}
        self._leaves: dict[Node, None] = {}
        """A dict, since it keeps their order."""
        self._clock = 0
        self.evicted_tokens = 0
        """Tokens that had to go for others."""

    def match(self, space: Space, tokens: Sequence[int]) -> Match:
        """The longest beginning of `tokens` that is in the tree, which does not change."""
        node, length = self._walk(space, tokens)
        if node is None or not length:
            return NOTHING
        blocks: list[int] = []
        for one in node.path():
            blocks[one.start // self._block_size :] = one.blocks
        return self.cut(Match(length, tuple(blocks), node, node.filled), length)

    def cut(self, match: Match, length: int) -> Match:
        """No more than the first `length` tokens of a match."""
        node, length = match.node, min(length, match.length)
        while node is not None and node.start >= length:
            node = node.parent
        if node is None or not length:
            return NOTHING
        filled = {pool: min(n, length) for pool, n in match.filled.items()}
        return Match(length, match.blocks[: self._blocks(length)], node, filled)

    def use(self, match: Match) -> None:
        """Notes that a match is of use. Its path ends where a node ends then, so that the rest can go by itself."""
        if match.node is not None:
            self._touch(self._split(match.node, match.length))

    def insert(self, space: Space, tokens: Sequence[int], table: Sequence[int], filled: Mapping[Pool, int]) -> int:
        """Keeps the blocks of a text, as far as they are not here.

        Args:
            space: whose text it is.
            tokens: committed ones.
            table: blocks of their positions, where the entries stay as they are from now on.
            filled: drafter's pool → so many of the tokens have their entries in it.

        Returns:
            How many of the tokens were here already.
        """
        if not tokens:
            return 0
        node, known = self._walk(space, tokens)
        node = self._roots.setdefault(space, Node()) if node is None else self._split(node, known)
        for one in node.path():
            self._fill(one, table, filled)
        if known < len(tokens):
            node = self._grow(node, tuple(tokens[known:]), table[known // self._block_size : self._blocks(len(tokens))])
            self._fill(node, table, filled)
        self._touch(node)
        return known

    def evict(self, wanted: int) -> None:
        """Gives up blocks, from the ends of the leaves that are worth least, until `wanted` blocks are free, or the
        tree is empty. Leaves in use come last: what they give back is the blocks of their parents."""
        while self._allocator.num_free < wanted and self._leaves:
            leaf = min(self._leaves, key=lambda one: (self._allocator.in_use(one.blocks[0]), self._worth(one)))
            self._shorten(leaf)

    def nodes(self) -> Iterator[Node]:
        """All nodes but the roots, parents before their children."""
        waiting = list(self._roots.values())
        while waiting:
            node = waiting.pop()
            waiting.extend(node.children.values())
            if node.parent is not None:
                yield node

    def check_integrity(self) -> None:
        """Raises SpecdecError unless runs, blocks and leaves fit together."""
        leaves = {node for node in self.nodes() if not node.children}
        if leaves != self._leaves.keys() or any(not root.children for root in self._roots.values()):
            raise SpecdecError(f"{len(leaves)} nodes of the prefix tree are leaves, {len(self._leaves)} count as such.")
        for node in self.nodes():
            parent = node.parent
            assert parent is not None
            wanted = self._blocks(node.end) - node.start // self._block_size
            sound = node.tokens and parent.end == node.start and parent.children.get(node.tokens[0]) is node
            older = parent.parent is not None and parent.used < node.used
            if not sound or older or len(node.blocks) != wanted:
                raise SpecdecError(f"A run of {len(node.tokens)} tokens behind {node.start} does not fit its parent.")
            if any(not 0 <= n <= node.end for n in node.filled.values()):
                raise SpecdecError(f"A pool is filled beyond the {node.end} tokens of a run's text.")

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def _walk(self, space: Space, tokens: Sequence[int]) -> tuple[Node | None, int]:
        """The last node that the text reaches, and how many of its tokens are found up to there; None for a space that
        is not known."""
        node, length = self._roots.get(space), 0
        while node is not None and length < len(tokens) and length == node.end:
            below = node.children.get(tokens[length])
            if below is None:
                break
            node, length = below, length + common(below.tokens, tokens[length : length + len(below.tokens)])
        return node, length

    def _split(self, node: Node, length: int) -> Node:
        """The node whose run ends at `length`: this one, or its upper part, which becomes its parent."""
        if length == node.end:
            return node
        assert node.parent is not None
        at, size = length - node.start, self._block_size
        first = node.start // size
        rest = node.blocks[length // size - first :]
        upper = replace(
            node, tokens=node.tokens[:at], blocks=node.blocks[: self._blocks(length) - first],
            filled={pool: min(n, length) for pool, n in node.filled.items()}, children={node.tokens[at]: node},
        )  # fmt: skip
        if length % size:
            self._allocator.keep(rest[:1])
        node.parent.children[node.tokens[0]] = upper
        node.parent, node.tokens, node.start, node.blocks = upper, node.tokens[at:], length, rest
        return upper

    def _grow(self, parent: Node, tokens: tuple[int, ...], blocks: Sequence[int]) -> Node:
        """Adds a leaf."""
        leaf = Node(parent, tokens, parent.end, list(blocks))
        self._allocator.keep(leaf.blocks)
        parent.children[tokens[0]] = leaf
        self._leaves.pop(parent, None)
        self._leaves[leaf] = None
        return leaf

    def _fill(self, node: Node, table: Sequence[int], filled: Mapping[Pool, int]) -> None:
        """A text runs through the node, in the node's blocks or in others. Where they hold more in some pool and less
        in none, the node takes them: what the target has there is the same in both."""
        assert node.parent is not None
        offered: dict[Pool, int] = {}
        for pool, n in filled.items():
            above = node.parent.filled.get(pool, 0)
            offered[pool] = min(n, node.end) if above >= min(n, node.start) else above
        if offered == node.filled or any(offered.get(pool, 0) < n for pool, n in node.filled.items()):
            return
        first = node.start // self._block_size
        blocks = list(table[first : first + len(node.blocks)])
        self._allocator.keep(blocks)
        self._allocator.drop(node.blocks)
        node.blocks, node.filled = blocks, offered

    def _touch(self, node: Node) -> None:
        """Notes that the text up to the node's end was used."""
        self._clock += 1
        for one in node.path():
            one.used = self._clock

    def _shorten(self, leaf: Node) -> None:
        """Drops the last block of a leaf, and the leaf with it if nothing is left."""
        first = leaf.tokens[0]
        self._allocator.drop([leaf.blocks.pop()])
        end = (leaf.start // self._block_size + len(leaf.blocks)) * self._block_size
        kept = leaf.tokens[: max(end - leaf.start, 0)]
        self.evicted_tokens += len(leaf.tokens) - len(kept)
        leaf.tokens, leaf.filled = kept, {pool: min(n, end) for pool, n in leaf.filled.items()}
        if kept:
            return
        assert leaf.parent is not None
        del self._leaves[leaf], leaf.parent.children[first]
        if leaf.parent.children:
            return
        if leaf.parent.parent is not None:
            self._leaves[leaf.parent] = None
        else:
            self._roots = {space: root for space, root in self._roots.items() if root.children}
