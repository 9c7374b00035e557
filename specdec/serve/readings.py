"""What comes out of the engine, for the coroutines that answer calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.serve.errors import ApiError
from specdec.serve.meters import Meters, Times
from specdec.serve.worker import EngineThread


class Desk:
    """Takes requests in, as many as there are places, and hands their outputs out. Used in one event loop.

    Args:
        thread: runs the engine.
        meters: are told of every output.
        places: texts that may run or wait.
        most_unread: outputs of a stream that nobody has read; with more its requests are aborted.
    """

    def __init__(self, thread: EngineThread, meters: Meters, places: int, most_unread: int) -> None:
        self.thread, self.meters = thread, meters
        self._places, self.most_unread = places, most_unread
        self._taken = 0
        self.draining = False
        """Whether nothing more is taken in."""

    def check_open(self) -> None:
        """Raises ApiError, 503, if nothing is taken in."""
        if self.draining:
            raise ApiError(503, "The server is shutting down. Ask another one.")

    @contextmanager
    def reserved(self, count: int) -> Iterator[Reservation]:
        """Places for so many texts. Those that no request has taken are given back.

        Raises:
            ApiError: 429 if there are not so many now; 400 if there never are.
        """
        self.check_open()
        if count > self._places:
            raise ApiError(400, f"{count} texts are more than the {self._places} that may wait. Send them one by one.")
        if self._taken + count > self._places:
            self.meters.refused(count)
            raise ApiError(429, f"{self._taken} texts run or wait already. Try again later.")
        self._taken += count
        reservation = Reservation(self, count)
        try:
            yield reservation
        finally:
            self._taken -= reservation.left

    def give_back(self) -> None:
        """One place is free again."""
        self._taken -= 1


class Reservation:
    """Places that requests may take.

    Args:
        desk: whose.
        count: how many.
    """

    def __init__(self, desk: Desk, count: int) -> None:
        self._desk, self.left = desk, count

    def begin(self, requests: Sequence[Request], bounded: bool) -> Reading:
        """Queues requests, each of which takes a place until it has ended.

        Args:
            requests: no more than there are places.
            bounded: whether they are aborted if their outputs are not read.
        """
        assert len(requests) <= self.left
        self.left -= len(requests)
        return Reading(self._desk, requests, bounded)


class Reading:
    """The outputs of some requests, in the order in which they come, for one coroutine.

    Args:
        desk: whose requests they are.
        requests: are queued here.
        bounded: whether they are aborted if their outputs are not read.
    """

    def __init__(self, desk: Desk, requests: Sequence[Request], bounded: bool) -> None:
        self.requests = list(requests)
        self.began = time.monotonic()
        self.first: float | None = None
        """When the first tokens were there."""
        self.unread = False
        """Whether it was aborted because nobody read."""
        self._desk, self._bounded = desk, bounded
        self._queue: asyncio.Queue[tuple[int, StepOutput]] = asyncio.Queue()
        self._times = [Times(self.began, self.began) for _ in self.requests]
        loop = asyncio.get_running_loop()
        for index, request in enumerate(self.requests):
            desk.thread.submit(request, partial(self._from_engine, loop, index))

    async def outputs(self) -> AsyncGenerator[tuple[int, StepOutput], None]:
        """Index of a request, and what it gained, until all have ended; those that still run when this is closed are
        aborted."""
        running = len(self.requests)
        try:
            while running:
                index, output = await self._queue.get()
                running -= output.finish_reason is not None
                yield index, output
        finally:
            self.abort()

    def abort(self) -> None:
        """Ends what still runs."""
        for request in self.requests:
            if not request.finished:
                self._desk.thread.abort(request)

    def _from_engine(self, loop: asyncio.AbstractEventLoop, index: int, output: StepOutput) -> None:
        """In the engine's thread."""
        with suppress(RuntimeError):  # the event loop is closed, and nobody is there
            loop.call_soon_threadsafe(self._take, index, output)

    def _take(self, index: int, output: StepOutput) -> None:
        now = time.monotonic()
        if output.token_ids:
            self._desk.meters.gained(output, self._times[index], now)
            self.first = self.first or now
        if output.finish_reason is not None:
            self._desk.meters.ended(output, self._times[index], now)
            self._desk.give_back()
        self._queue.put_nowait((index, output))
        if self._bounded and not self.unread and self._queue.qsize() > self._desk.most_unread:
            self.unread = True
            self.abort()
