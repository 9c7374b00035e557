"""One owner of the step, for any number of threads that submit, wait and abort."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from threading import Condition

from specdec.engine.engine import Engine
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.errors import SpecdecError


class EngineLoop:
    """Runs an engine's steps and hands every output to whoever waits for it.

    It has no thread of its own: of the threads that wait for outputs one runs the next step, and the others sleep until
    it is done. All methods are safe in any thread; the engine is touched by one thread at a time.

    Args:
        engine: nobody else may step it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changed = Condition()
        """Guards all that follows; notified when outputs are there, or when the engine is free."""
        self._stepping = False
        self._arrived: list[Request] = []
        self._unwanted: list[Request] = []
        self._mail: dict[int, deque[StepOutput]] = {}
        """Request → outputs that its owner has not taken yet."""

    def abort_all(self) -> None:
        """Ends every request that is queued or running, whoever submitted it."""
        with self._changed:
            waiting = [*self._arrived, *self.engine.scheduler.running, *self.engine.scheduler.waiting]
        for request in waiting:
            self.abort(request)

    def submit(self, request: Request) -> None:
        """Queues a request that the engine made; its outputs are kept until they are taken.

        Args:
            request: from `Engine.make_request`.
        """
        with self._changed:
            self._mail[request.id] = deque()
            self._arrived.append(request)

    def abort(self, request: Request) -> None:
        """Ends a request before the next step; its last output says "aborted". Nothing happens if it has ended."""
        with self._changed:
            self._unwanted.append(request)
            if not self._stepping:
                self._settle()

    def outputs(self, requests: Sequence[Request]) -> Generator[StepOutput, None, None]:
        """What these requests gain, as it comes, until all of them have ended. Runs steps when nobody else does.

        Args:
            requests: submitted before; no other thread takes their outputs. Those that still run when the iterator is
                closed are aborted.
        """
        pending = {request.id: request for request in requests}
        try:
            while pending:
                for output in self._take(list(pending)):
                    if output.finish_reason is not None:
                        del pending[output.request.id]
                    yield output
        finally:
            for request in requests:
                if not request.finished:
                    self.abort(request)
            with self._changed:
                for request in requests:
                    self._mail.pop(request.id, None)

    def _take(self, ids: Sequence[int]) -> list[StepOutput]:
        """Outputs for these requests: those that are there, or those of the next steps."""
        while True:
            with self._changed:
                ready = [output for each in ids for output in self._mail[each]]
                if ready:
                    for each in ids:
                        self._mail[each].clear()
                    return ready
                if self._stepping:
                    self._changed.wait()
                    continue
                self._settle()
                if any(self._mail[each] for each in ids):
                    continue
                if not self.engine.has_work:
                    raise SpecdecError("Waiting for requests that are not in this engine. Submit them first.")
                self._stepping = True
            outputs: list[StepOutput] = []
            try:
                outputs = self.engine.step()
            except Exception as error:  # whatever it is, nobody may wait for ever for what was running
                outputs = self._fail_all(error)
            finally:
                with self._changed:
                    self._stepping = False
                    self._deliver(outputs)
                    self._settle()
                    self._changed.notify_all()

    def _settle(self) -> None:
        """Takes arrivals and aborts to the engine, which is free."""
        for request in self._arrived:
            self.engine.add(request)
        for request in self._unwanted:
            if (output := self.engine.abort(request)) is not None:
                self._deliver([output])
        self._arrived, self._unwanted = [], []
        self._changed.notify_all()

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        for output in outputs:
            if output.request.id in self._mail:
                self._mail[output.request.id].append(output)

    def _fail_all(self, error: Exception) -> list[StepOutput]:
        """A step that failed as a whole leaves no request in a known state: each ends with the error."""
        running = [*self.engine.scheduler.running, *self.engine.scheduler.waiting]
        outputs = [self.engine.abort(request, error) for request in running]
        return [output for output in outputs if output is not None]
