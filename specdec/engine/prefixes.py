"""What requests find of their texts in the cache, and what they leave there for others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specdec.cache import PagedCache, Pool
from specdec.cache.prefix import NOTHING, Match
from specdec.cache.runs import common
from specdec.engine.request import Request

WORTH_WAITING = 16
"""A request waits for one that reads the same tokens if so many need not run then. Of two requests the second loses a
pass, which costs on a CPU about as much as 16 to 20 more rows, and both gain those rows; of more requests all gain."""


class Prefixes:
    """Begins and ends the requests' sequences, with the help of the prefix tree.

    A request begins with the longest known beginning of its tokens, but for the last one, which must run: its logits
    are wanted. The entries are the very numbers that a pass of its own would write, so no text changes. Only committed
    tokens are left to others, and none of a request that failed.

    Args:
        cache: block tables, and the tree.
        enabled: whether anything is found or left at all.
        told: pools of what drafters are told of a token when it runs. A beginning is no longer than all of them hold:
            a draft must not depend on what was found.
    """

    def __init__(self, cache: PagedCache, enabled: bool, told: Sequence[Pool] = ()) -> None:
        self._cache, self._enabled, self._told = cache, enabled, told

    def found(self, request: Request) -> int:
        """How many of the request's tokens are there now."""
        return self._longest(request).length

    def find(self, request: Request, rows: int, running: Iterable[Request] = ()) -> Match | None:
        """What there is of the request's beginning; None if there is no room for it now, or there will be more of it.

        Args:
            request: which; it waits.
            rows: slots that it takes in all.
            running: requests that may be reading the same tokens at this time.
        """
        cache, match = self._cache, self._longest(request)
        if any(self._reads(one, request) - match.length >= WORTH_WAITING for one in running):
            return None
        whole = match.length // cache.block_size
        # Blocks that others have in use cost nothing. A part of a block is copied, and is there twice until then.
        spare = cache.num_free_blocks - cache.blocks(rows) + cache.num_in_use(match.blocks[:whole])
        if spare < 0:
            return None
        return match if spare > 0 else cache.prefixes.cut(match, whole * cache.block_size)

    def begin(self, request: Request, match: Match) -> None:
        """Starts the request's sequence with what was found."""
        self._cache.add(request.id, match)
        if not request.stats.preemptions:
            request.stats.cached_tokens = match.length

    def share(self, request: Request) -> None:
        """Leaves what a running request has committed: while it reads its prompt the blocks that are whole, then all of
        it. Its last block is copied once then, with its next row."""
        size, committed = self._cache.block_size, self._cache.length(request.id)
        self._leave(request, committed // size * size if self._is_reading(request) else committed)

    def end(self, request: Request) -> None:
        """Leaves what the request has committed, and frees its sequence."""
        self._leave(request, len(request.tokens))
        self._cache.free(request.id)

    def _longest(self, request: Request) -> Match:
        prefixes = self._cache.prefixes
        if not self._takes(request):
            return NOTHING
        match = prefixes.match(request.params.cache_salt, request.tokens[:-1])
        return prefixes.cut(match, min([match.length, *(match.filled.get(pool, 0) for pool in self._told)]))

    def _reads(self, one: Request, request: Request) -> int:
        """How many tokens of the request one that still reads its prompt will have left when it is done."""
        alike = one.params.cache_salt == request.params.cache_salt
        if not (self._is_reading(one) and alike and self._leaves(one) and self._takes(request)):
            return 0
        return common(one.tokens, request.tokens[:-1])

    def _is_reading(self, request: Request) -> bool:
        return self._cache.length(request.id) < len(request.tokens) - 1

    def _takes(self, request: Request) -> bool:
        return self._enabled and request.params.prefix_cache and not request.scores_prompt

    def _leaves(self, request: Request) -> bool:
        params = request.params
        return self._enabled and params.prefix_cache and params.store and request.finish_reason != "error"

    def _leave(self, request: Request, count: int) -> None:
        """The first `count` tokens, as far as they are committed."""
        if self._leaves(request):
            self._cache.remember(request.id, request.params.cache_salt, request.tokens[:count])
