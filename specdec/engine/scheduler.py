"""In-flight batching: who takes part in the next pass, and with how many rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from specdec.cache.paged import PagedCache
from specdec.drafters.base import Drafter, DraftRequest
from specdec.engine.clock import Share
from specdec.engine.request import Request
from specdec.errors import ConfigError, OutOfBlocksError
from specdec.models.batch import SequenceRows
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class Scheduled:
    """A request's part of the next pass.

    Args:
        request: who.
        tail: uncached committed tokens that are run, from the first uncached one on.
        num_draft_tokens: longest branch that may be drafted below the tail.
        decodes: whether the tail reaches the last committed token, so that the step emits tokens.
    """

    request: Request
    tail: list[int]
    num_draft_tokens: int
    decodes: bool

    def draft_request(self) -> DraftRequest:
        """What the drafter is asked."""
        request = self.request
        return DraftRequest(
            request_id=request.id,
            tokens=request.tokens,
            num_draft_tokens=self.num_draft_tokens,
            transform=request.transform,
            rule=request.rule,
            key=request.key(),
        )

    def rows(self, tree: DraftTree, cache: PagedCache) -> SequenceRows:
        """Tail and tree as reserved rows: node n is row len(tail) + n, and hangs on the tail's last row if it is a
        child of the root."""
        tail = len(self.tail)
        parents = None
        if not tree.is_chain:
            parents = [*range(-1, tail - 1), *(tail + parent for parent in tree.parents)]
        return SequenceRows(
            tokens=[*self.tail, *tree.tokens],
            slots=cache.slots(self.request.id),
            committed=cache.length(self.request.id),
            parents=parents,
            logit_rows=range(tail - 1, tail + len(tree)) if self.decodes else (),
        )

    def share(self, tree: DraftTree) -> Share:
        """Tail rows before the last one are prefill; the last one and the draft's are what decoding costs."""
        if not self.decodes:
            return Share(self.request.stats, prefill_rows=len(self.tail), decode_rows=0)
        return Share(self.request.stats, prefill_rows=len(self.tail) - 1, decode_rows=1 + len(tree))


class Scheduler:
    """First come, first served, with chunked prefill, under a token budget.

    A request is either scheduled with all the rows that its own state asks for, or not at all: its draft is never
    trimmed because of its neighbours, neither before nor after it was drawn, so its output cannot depend on them.
    When blocks run out, the request that came last gives its blocks back, waits, and is recomputed.

    Args:
        cache: the target's cache; slots are reserved here.
        drafter: tells how many rows a draft may take.
        max_batch_tokens: rows of one pass.
        max_num_seqs: requests that run at the same time.

    Raises:
        ConfigError: if `max_num_seqs` full drafts exceed `max_batch_tokens`.
    """

    def __init__(self, cache: PagedCache, drafter: Drafter, max_batch_tokens: int, max_num_seqs: int) -> None:
        if max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs={max_num_seqs} must be at least 1.")
        needed = max_num_seqs * (1 + drafter.max_nodes(drafter.num_draft_tokens))
        if max_batch_tokens < needed:
            raise ConfigError(
                f"max_batch_tokens={max_batch_tokens} cannot hold {max_num_seqs} sequences with "
                f"{needed // max_num_seqs} rows each ({needed}). Raise it, or lower max_num_seqs or num_draft_tokens."
            )
        self._cache, self._drafter = cache, drafter
        self._max_batch_tokens, self._max_num_seqs = max_batch_tokens, max_num_seqs
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def check_fits(self, request: Request) -> None:
        """Raises OutOfBlocksError if the request cannot be served even when it is alone."""
        rows = request.max_length + self._drafter.max_nodes(request.num_draft_tokens(self._drafter.num_draft_tokens))
        wanted = -(-rows // self._cache.block_size)
        if wanted > self._cache.num_blocks:
            raise OutOfBlocksError(
                wanted,
                self._cache.num_free_blocks,
                self._cache.num_blocks,
                f"The request may grow to {rows} rows. Raise num_blocks, or lower max_tokens.",
            )

    def add(self, request: Request) -> None:
        """Queues a request."""
        self.waiting.append(request)

    def schedule(self) -> list[Scheduled]:
        """Chooses the next pass and reserves its slots. Empty only when no request is left."""
        budget = self._max_batch_tokens
        plan: list[Scheduled] = []
        for request in list(self.running):
            if request not in self.running:
                continue  # preempted for the sake of an older one
            part = self._part(request, budget - self._owed_after(request))
            if self._reserve(request, part):
                plan.append(part)
                budget -= self._num_rows(part)
        while self._can_admit(budget):
            request = self.waiting.popleft()
            self.running.append(request)
            self._cache.add(request.id)
            part = self._part(request, budget)
            self._cache.reserve(request.id, self._num_rows(part))
            plan.append(part)
            budget -= self._num_rows(part)
        return plan

    def finish(self, request: Request) -> None:
        """Frees everything the request holds. Also takes it out of the queue."""
        if request in self.running:
            self.running.remove(request)
            self._cache.free(request.id)
            self._drafter.release(request.id)
        elif request in self.waiting:
            self.waiting.remove(request)

    def _part(self, request: Request, budget: int) -> Scheduled:
        """The rows that `request` takes next: its whole tail and a draft, or as much of the tail as fits."""
        tail = request.tokens[self._cache.length(request.id) :]
        depth = request.num_draft_tokens(self._drafter.num_draft_tokens)
        waits_for_cache = self._drafter.reads_target_cache and len(tail) > 1
        if waits_for_cache or len(tail) + self._drafter.max_nodes(depth) > budget:
            return Scheduled(request, tail[: min(len(tail) - 1, budget)], 0, decodes=False)
        return Scheduled(request, tail, depth, decodes=True)

    def _num_rows(self, part: Scheduled) -> int:
        return len(part.tail) + self._drafter.max_nodes(part.num_draft_tokens)

    def _owed_after(self, request: Request) -> int:
        """Rows that must stay free for running requests behind this one: those that decode always take part."""
        behind = self.running[self.running.index(request) + 1 :]
        return len(behind) * (1 + self._drafter.max_nodes(self._drafter.num_draft_tokens))

    def _reserve(self, request: Request, part: Scheduled) -> bool:
        """Takes blocks, from the youngest running request if none are free. False if `request` itself had to go."""
        while True:
            try:
                self._cache.reserve(request.id, self._num_rows(part))
                return True
            except OutOfBlocksError:
                victim = self.running[-1]
                self._preempt(victim)
                if victim is request:
                    return False

    def _preempt(self, request: Request) -> None:
        """Takes everything from a request but its tokens; it goes back to the head of the queue."""
        self.finish(request)
        request.stats.preemptions += 1
        self.waiting.appendleft(request)

    def _can_admit(self, budget: int) -> bool:
        """Whether the next request finds a place, some budget, and blocks for all its tokens and one draft."""
        if not self.waiting or len(self.running) >= self._max_num_seqs:
            return False
        request = self.waiting[0]
        draft = 1 + self._drafter.max_nodes(self._drafter.num_draft_tokens)
        blocks = -(-(len(request.tokens) + draft) // self._cache.block_size)
        return budget >= draft and blocks <= self._cache.num_free_blocks
