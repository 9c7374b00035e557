"""In-flight batching: who takes part in the next pass, and with how many rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from specdec.cache.paged import PagedCache
from specdec.cache.prefix import Match
from specdec.engine.limits import DraftLimits
from specdec.engine.order import choose, overtake
from specdec.engine.pace import UNBOUNDED, Pace
from specdec.engine.prefixes import Prefixes
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.errors import ConfigError, InvalidRequestError, OutOfBlocksError, SpecdecError


class Scheduler:
    """In-flight batching with chunked prefill, under a token budget. `order.choose` says who begins next: of requests
    that find alike much in the cache the one that came first.

    A request is either scheduled with all the rows that its own state asks for, or not at all: its draft is never
    trimmed because of its neighbours, neither before nor after it was drawn, so its output cannot depend on them.
    When blocks run out, what is kept of earlier texts goes first. Then the request that came last gives its blocks
    back, waits, and begins with what is still there of them. Latency goals bound the rows of prompts, and who begins.

    Args:
        cache: block tables; slots are reserved here.
        limits: how many rows a draft may take.
        max_batch_tokens: rows of one pass.
        max_num_seqs: requests that run at the same time.
        on_preempt: told of a request that lost its place in the cache.
        prefixes: begins and ends sequences; None shares nothing.
        pace: bounds passes for the sake of latency goals; None bounds nothing.

    Raises:
        ConfigError: if `max_num_seqs` full drafts exceed `max_batch_tokens`.
    """

    def __init__(
        self,
        cache: PagedCache,
        limits: DraftLimits,
        max_batch_tokens: int,
        max_num_seqs: int,
        on_preempt: Callable[[Request], None] = lambda request: None,
        prefixes: Prefixes | None = None,
        pace: Pace | None = None,
    ) -> None:
        if max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs={max_num_seqs} must be at least 1.")
        needed = max_num_seqs * (1 + limits.max_nodes(limits.max_depth))
        if max_batch_tokens < needed:
            raise ConfigError(
                f"max_batch_tokens={max_batch_tokens} cannot hold {max_num_seqs} sequences with "
                f"{needed // max_num_seqs} rows each ({needed}). Raise it, or lower max_num_seqs or num_draft_tokens."
            )
        self._cache, self._limits, self._on_preempt = cache, limits, on_preempt
        self._max_batch_tokens, self._max_num_seqs = max_batch_tokens, max_num_seqs
        self._prefixes = prefixes or Prefixes(cache, enabled=False)
        self.pace = pace or Pace()
        self._live: dict[int, Request] = {}
        """Every request that has not been finished, in order of arrival: what the two below are made from."""
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def live(self) -> list[Request]:
        """Requests that wait or run, first come first."""
        return list(self._live.values())

    @property
    def most_probed(self) -> int:
        """Nodes that a probe may read in a pass, whatever else it must serve."""
        others = (self._max_num_seqs - 1) * (1 + self._limits.max_nodes(self._limits.max_depth))
        return self._max_batch_tokens - others - 1

    def check_fits(self, request: Request) -> None:
        """Raises OutOfBlocksError if the request cannot be served even when it is alone, InvalidRequestError if no pass
        has room for its probe beside the others."""
        rows = self._limits.most_rows(request)
        if request.probe is not None and len(request.probe.read) > self.most_probed:
            raise InvalidRequestError(
                f"{len(request.probe.read)} tokens are too many to be read in one pass, which has room for "
                f"{self.most_probed} of them. Raise max_batch_tokens, or give fewer or shorter texts."
            )
        wanted = self._cache.blocks(rows)
        if wanted > self._cache.num_blocks:
            raise OutOfBlocksError(
                wanted,
                self._cache.num_free_blocks,
                self._cache.num_blocks,
                f"The request may grow to {rows} rows. Raise num_blocks, or lower max_tokens.",
            )

    def add(self, request: Request) -> None:
        """Queues a request. One that is here already keeps its place."""
        if request.id not in self._live:
            self._live[request.id] = request
            self.waiting.append(request)

    def join(self, request: Request) -> None:
        """Takes in a request that runs: its sequence is in the cache already, up to its last token.

        Raises:
            SpecdecError: if `max_num_seqs` requests run.
        """
        if len(self.running) >= self._max_num_seqs:
            raise SpecdecError(
                f"Request {request.id} cannot join: {len(self.running)} requests run, and max_num_seqs is "
                f"{self._max_num_seqs}. Raise it, or add the request."
            )
        self._live[request.id] = request
        self.running.append(request)

    def restart(self) -> None:
        """Whatever state a schedule was left in: every request waits, in order of arrival, and holds nothing."""
        self._cache.clear()
        self.running = []
        self.waiting = deque(self._live.values())

    def schedule(self) -> list[Scheduled]:
        """Chooses the next pass and reserves its slots. Empty only when no request is left.

        Raises:
            SpecdecError: if requests wait and none can take part.
        """
        plan = self._plan(self.pace.prompt_rows(self.running, self.waiting))
        if not plan and self._live:
            plan = self._plan(UNBOUNDED)  # whoever decoded had to go, and goals hold nobody up then
        if self.waiting and not plan:
            self._refuse_to_spin(choose(self.waiting, self._prefixes.found))
        return plan

    def _plan(self, room: int) -> list[Scheduled]:
        """The parts of a pass with at most so many rows of prompts."""
        budget = self._max_batch_tokens
        plan: list[Scheduled] = []
        for request in list(self.running):
            if request not in self.running:
                continue  # preempted for the sake of an older one
            part = self._part(request, budget - self._owed_after(request), room)
            if part.tail and self._reserve(request, part):
                plan.append(part)
                budget -= self._num_rows(part)
                room -= len(part.tail) if len(part.tail) > 1 else 0
        while (begins := self._admissible(budget, room)) is not None:
            request, match = begins
            overtake(self.waiting, request)
            self.waiting.remove(request)
            self.running.append(request)
            self._prefixes.begin(request, match)
            self.pace.begins(request)
            part = self._part(request, budget, room)
            self._cache.reserve(request.id, self._num_rows(part))
            plan.append(part)
            budget -= self._num_rows(part)
            room -= len(part.tail)
        return plan

    def finish(self, request: Request) -> bool:
        """Frees everything the request holds, and takes it out of the queue. Whether it was here."""
        if self._live.get(request.id) is not request:
            return False
        if request in self.running:
            self.running.remove(request)
            self._prefixes.end(request)
        else:
            self.waiting.remove(request)
        del self._live[request.id]
        return True

    def _part(self, request: Request, budget: int, room: int) -> Scheduled:
        """The rows that `request` takes next: its whole tail and a draft, or as much of the tail as fits. One that has
        read its prompt needs no room."""
        tail = request.tokens[self._cache.length(request.id) :]
        waits_for_cache = self._limits.whole_prefix and len(tail) > 1 and request.probe is None
        crowded = 1 < len(tail) > room
        if waits_for_cache or crowded or len(tail) + self._limits.draft_rows(request) > budget:
            return Scheduled(request, tail[: max(min(len(tail) - 1, budget, room), 0)], 0, decodes=False)
        return Scheduled(request, tail, self._limits.depth(request), decodes=True)

    def _num_rows(self, part: Scheduled) -> int:
        return len(part.tail) + (self._limits.draft_rows(part.request) if part.decodes else 0)

    def _owed_after(self, request: Request) -> int:
        """Rows that must stay free for running requests behind this one: those that decode always take part. One that
        joined may stand behind a prompt that is still being read."""
        behind = self.running[self.running.index(request) + 1 :]
        return len(behind) * (1 + self._limits.max_nodes(self._limits.max_depth))

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
        self.running.remove(request)
        self._prefixes.end(request)
        self._on_preempt(request)
        request.stats.preemptions += 1
        self.waiting.appendleft(request)

    def _admissible(self, budget: int, room: int) -> tuple[Request, Match] | None:
        """The next request and what it begins with, if it finds a place, some budget and room, and blocks for all its
        tokens and one draft."""
        if not self.waiting or len(self.running) >= self._max_num_seqs or min(budget, room) < 1:
            return None
        request = choose(self.pace.eligible(self.waiting), self._prefixes.found)
        if budget <= self._limits.draft_rows(request) or not self.pace.admits(self.running, request):
            return None
        match = self._prefixes.find(request, self._limits.rows(request), self.running)
        return None if match is None else (request, match)

    def _refuse_to_spin(self, request: Request) -> None:
        """Raises SpecdecError: the next request cannot begin, and nothing runs whose end could change that."""
        rows, cache = self._limits.rows(request), self._cache
        raise SpecdecError(
            f"Request {request.id} cannot begin although nothing else runs: its {len(request.tokens)} tokens and a "
            f"draft of {self._limits.draft_rows(request)} need {cache.blocks(rows)} blocks of {cache.num_blocks}, of "
            f"which {cache.num_free_blocks} are free, and a pass takes {self._max_batch_tokens} rows. Raise num_blocks "
            "or max_batch_tokens, or lower num_draft_tokens."
        )
