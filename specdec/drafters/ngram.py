"""Prompt lookup: what followed the last few tokens before will follow them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specdec.checks import take, whole
from specdec.drafters.base import Drafter, DraftRequest
from specdec.errors import ConfigError
from specdec.verify.tree import KINDS, DraftTree

ASSUMED = 0.5
"""Chance of a node that is copied below another draft, or was given without one."""
DEPTHS = 64
"""Depths that the kinds of nodes tell apart, beside the length of the match."""
ENTRY_BYTES = 210
"""Of an n-gram in the index, about: a tuple, a list of few numbers, and a place in a dict."""
MATCH = whole(1, 64)
"""Every length of a suffix is indexed at every token, so what is indexed grows with the square of the longest."""


class NgramDrafter(Drafter):
    """Copies the continuation of the latest earlier occurrence of the current suffix.

    Source: Saxena, "Prompt lookup decoding" (2023). The longest suffix with an earlier occurrence wins; a tree holds
    the continuations of its latest `branches` occurrences. Every n-gram is indexed once, when its next token is known,
    so a proposal costs O(max_match), whatever the length of the context.

    Args:
        num_draft_tokens: γ, tokens copied.
        min_match, max_match: shortest and longest suffix to look up.
        branches: number of earlier occurrences that are followed.

    Raises:
        ConfigError: unless 1 <= min_match <= max_match <= 64.
    """

    name = "ngram"
    extends = True

    def __init__(self, num_draft_tokens: int = 5, min_match: int = 1, max_match: int = 4, branches: int = 1) -> None:
        super().__init__(num_draft_tokens, branches)
        self.min_match, self.max_match = take("min_match", min_match, MATCH), take("max_match", max_match, MATCH)
        if self.min_match > self.max_match:
            raise ConfigError(f"min_match = {min_match} is above max_match = {max_match}. Lower the first.")
        self._branches = self.shape.widest
        self._indexes: dict[int, _NgramIndex] = {}

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """One chain, or the trie of several, per request; empty where the suffix is new."""
        return [self._propose(request) for request in requests]

    def extend(self, requests: Sequence[DraftRequest], trees: Sequence[DraftTree]) -> list[DraftTree]:
        """See `Drafter.extend`: copies below every leaf what followed its own suffix before."""
        return [self._extended(*each) for each in zip(requests, trees, strict=True)]

    def memory(self) -> int:
        """See `Drafter.memory`; an estimate."""
        return ENTRY_BYTES * sum(map(len, self._indexes.values()))

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Drops the request's index."""
        self._indexes.pop(request_id, None)

    def _index(self, request: DraftRequest) -> _NgramIndex:
        """The request's, up to its last token."""
        index = self._indexes.get(request.request_id)
        if index is None:
            index = self._indexes[request.request_id] = _NgramIndex(self.min_match, self.max_match, self._branches)
        index.extend(request.tokens)
        return index

    def _extended(self, request: DraftRequest, tree: DraftTree) -> DraftTree:
        index, tokens, parents = self._index(request), list(tree.tokens), list(tree.parents)
        kinds, chances = list(tree.node_kinds), list(tree.chances or (ASSUMED,) * len(tree))
        for leaf in sorted(set(range(len(tree))) - set(tree.parents)):
            text = [*request.tokens, *tree.prefix(leaf)]
            length = min(self.num_draft_tokens, request.max_depth - tree.depths[leaf] - 1)
            matched, starts = index.lookup(text)
            for start in starts[:1]:
                parents += [leaf, *range(len(tokens), len(tokens) + length - 1)][:length]
                tokens += _copy(text, start, length)
                kinds += [_kind(matched, depth) for depth in range(length)]
                chances += [ASSUMED] * length
        return DraftTree(tuple(tokens), tuple(parents), None, tuple(kinds), tuple(chances))

    def _propose(self, request: DraftRequest) -> DraftTree:
        index = self._index(request)
        length = min(self.num_draft_tokens, request.max_depth)
        matched, starts = index.lookup(request.tokens)
        tree = DraftTree.from_chains([_copy(request.tokens, start, length) for start in starts])
        return replace(tree, kinds=tuple(_kind(matched, depth) for depth in tree.depths))


class _NgramIndex:
    """n-gram → where its latest occurrences ended, latest first."""

    def __init__(self, min_match: int, max_match: int, keep: int) -> None:
        self._sizes = range(min_match, max_match + 1)
        self._keep = keep
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0
        """n-grams that end at or before this position are in the index."""

    def __len__(self) -> int:
        return len(self._ends)

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds the n-grams whose next token has become known since the last call."""
        for end in range(self._indexed + 1, len(tokens)):
            for size in self._sizes:
                if size > end:
                    break
                ends = self._ends.setdefault(tuple(tokens[end - size : end]), [])
                ends.insert(0, end)
                del ends[self._keep :]
        self._indexed = max(self._indexed, len(tokens) - 1)

    def lookup(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """Length of the longest known suffix, and the positions that follow its latest earlier occurrences."""
        for size in reversed(self._sizes):
            if size <= len(tokens) and (ends := self._ends.get(tuple(tokens[-size:]))):
                return size, ends
        return 0, []


def _kind(matched: int, depth: int) -> int:
    """Of a node at a depth of what follows a match of some length."""
    return DEPTHS * min(matched, KINDS // DEPTHS - 1) + min(depth, DEPTHS - 1)


def _copy(tokens: Sequence[int], start: int, length: int) -> list[int]:
    """`length` tokens from `start` on. Where the copy reaches the end of the text it goes on reading itself, which
    continues a repetition with its own period."""
    period = len(tokens) - start
    return [tokens[start + i % period] for i in range(length)]
