"""The one thread that runs an engine's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from specdec.engine import EngineLoop
from specdec.engine.request import Request
from specdec.engine.settling import Deliver
from specdec.errors import SpecdecError


class EngineThread:
    """Runs the steps of a loop while there is work, and sleeps when there is none.

    Other threads give it orders, which it takes between two steps. Should the engine break beyond repair, all that runs
    and all that comes later ends with an error: nobody waits for ever.

    Args:
        loop: nobody else runs its steps.
    """

    def __init__(self, loop: EngineLoop) -> None:
        self._loop = loop
        self._orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._open = True
        self.broken: Exception | None = None
        """Why it can never step again."""
        self._thread = Thread(target=self._run, name="specdec-engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why the engine does not work: what broke it, or what its last step raised. None if all is well."""
        return self.broken or self._loop.failure

    def submit(self, request: Request, to: Deliver) -> None:
        """Queues a request; `to` is given its outputs in the engine's thread, the last of which has a finish_reason."""
        self.order(partial(self._loop.submit, request, to))

    def abort(self, request: Request) -> None:
        """Ends a request before the next step; nothing happens if it has ended."""
        self.order(partial(self._loop.abort, request))

    def order(self, do: Callable[[], object]) -> None:
        """Has something done in the engine's thread, between two steps. It must not raise."""
        self._orders.put(do)

    def close(self, seconds: float = 10.0) -> None:
        """Aborts what runs and ends the thread, once its step is done; waits for that so long at most."""
        self.order(self._close)
        self._thread.join(seconds)

    def _run(self) -> None:
        busy = False
        while self._open or busy:
            for order in self._ordered(wait=not busy):
                order()
            busy = self._advance()

    def _ordered(self, wait: bool) -> Iterator[Callable[[], object]]:
        """The orders that are there, or the first that comes."""
        if wait:
            yield self._orders.get()
        while True:
            try:
                yield self._orders.get_nowait()
            except Empty:
                return

    def _advance(self) -> bool:
        """One step. Whether work is left."""
        if self.broken is None:
            try:
                return self._loop.advance()
            except Exception as error:
                self.broken = error
            except BaseException as error:  # whatever it is, nobody may wait for ever for what was running
                self.broken = SpecdecError(f"The engine's thread was ended by {type(error).__name__}.")
        self._loop.fail_all(self.broken)
        return False

    def _close(self) -> None:
        self._open = False
        if self.broken is None:
            self._loop.abort_all()
