"""One owner of the step, for any number of threads that submit, wait and abort."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from threading import Condition, Lock, RLock

from specdec.engine.engine import Engine
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.engine.settling import Deliver
from specdec.errors import SpecdecError
from specdec.kernels.cpu.forks import renew_in_child

PATIENCE = 0.1
"""Seconds after which a thread looks for itself: one that was interrupted may not have said that the engine is free."""


class EngineLoop:
    """Runs an engine's steps and hands every output to whoever waits for it.

    It has no thread of its own: of the threads that wait for outputs one runs the next step, and the others sleep until
    it is done. All methods are safe in any thread, and in a generator that is collected as garbage, which may happen in
    the middle of any of them: what is left here for the engine lies in queues whose operations are atomic.

    A thread of its own can run the steps instead, by calling `advance` again and again, for those who listen.

    An error of a step ends the requests that took part in it. An interrupt reaches the thread that ran the step, and
    ends what that thread waited for; the other threads' requests go on.

    Args:
        engine: nobody else may step it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.renew()
        renew_in_child(self)
        self._arrived: deque[Request] = deque()
        self._unwanted: deque[Request] = deque()
        self._mail: dict[int, deque[StepOutput]] = {}
        """Request → outputs that its owner has not taken yet."""
        self._listeners: dict[int, tuple[Request, Deliver]] = {}
        """Those whose outputs are handed on at once."""
        self.failure: Exception | None = None
        """What the last step raised; None if it did not."""

    def renew(self) -> None:
        """Locks that nobody holds: in a child process, the threads that held the others are not there."""
        self._turn = Lock()
        """Held by the thread that uses the engine. Taken by `with` alone: so no interrupt leaves it taken."""
        self._gate = RLock()
        self._changed = Condition(self._gate)
        """Notified when the engine is free, and outputs may be there."""

    def abort_all(self) -> None:
        """Ends every request that is queued or running, whoever submitted it."""
        for request in [*self._arrived.copy(), *self.engine.scheduler.live]:
            self.abort(request)

    def submit(self, request: Request, to: Deliver | None = None) -> None:
        """Queues a request that the engine made; its outputs are kept until they are taken.

        Args:
            request: from `Engine.make_request`.
            to: is given each output instead, in the thread that runs the steps. It must not raise.

        Raises:
            SpecdecError: if it was submitted before.
        """
        if request.id in self._mail or request.id in self._listeners or request.finished:
            raise SpecdecError(f"Request {request.id} was submitted before. Make another one with Engine.make_request.")
        if to is None:
            self._mail[request.id] = deque()
        else:
            self._listeners[request.id] = request, to
        self._arrived.append(request)

    def abort(self, request: Request) -> None:
        """Ends a request before the next step; its last output says "aborted". Nothing happens if it has ended."""
        if not request.finished:
            self._unwanted.append(request)
            self._tidy()

    def leave(self, requests: Iterable[Request]) -> None:
        """Nobody waits for these requests any more: those that have not ended are aborted."""
        for request in requests:
            self.abort(request)
            self._mail.pop(request.id, None)

    def outputs(self, requests: Sequence[Request]) -> Generator[StepOutput, None, None]:
        """What these requests gain, as it comes, until all of them have ended. Runs steps when nobody else does.

        Args:
            requests: submitted before; no other thread takes their outputs. Those that still run when the iterator is
                closed are aborted.

        Raises:
            SpecdecError: if one of them was not submitted, or its outputs have been taken.
        """
        pending = {request.id: request for request in requests}
        try:
            while pending:
                for output in self.take(list(pending.values())):
                    if output.finish_reason is not None:
                        del pending[output.request.id]
                    yield output
        finally:
            self.leave(requests)

    def advance(self) -> bool:
        """Takes arrivals and aborts to the engine, and runs a step if there is work, for those who listen.

        Returns:
            Whether work is left.
        """
        with self._turn:
            self._settle()
            if self.engine.has_work:
                self._step()
            self._tell_ended()
            left = self.engine.has_work
        self._tidy()
        return left

    def fail_all(self, error: Exception) -> None:
        """Ends every request that somebody listens to, without the engine, which cannot be used any more."""
        for request, _ in list(self._listeners.values()):
            if not request.finished:
                request.fail(error)
        self._tell_ended()

    def _tell_ended(self) -> None:
        """A broken step may have ended a request before its last output was there."""
        for request, _ in list(self._listeners.values()):
            if request.finished:
                self._deliver(StepOutput(request, finish_reason=request.finish_reason))

    def take(self, requests: Sequence[Request]) -> list[StepOutput]:
        """Outputs for these requests: those that are there, or those of the next steps. At least one.

        Args:
            requests: submitted before, none of which has said its last; no other thread takes their outputs. `leave`
                them in the end.

        Raises:
            SpecdecError: if one of them was not submitted, or its outputs have been taken.
        """
        while True:
            if ready := [output for request in requests for output in self._read(request)]:
                return ready
            if self._turn.locked():
                with self._gate:
                    if self._turn.locked():
                        self._changed.wait(PATIENCE)
                continue
            try:
                with self._turn:
                    self._settle(requests)
                    if not self._has_mail(requests):
                        self._step()
            finally:
                self._tidy()

    def _step(self) -> None:
        if not self.engine.has_work:
            raise SpecdecError("Waiting for requests that are not in this engine. Submit them first.")
        try:
            self.engine.step(self._deliver)
            self.failure = None
        except Exception as error:  # whatever it is, nobody may wait for ever for what was running
            self.failure = error
            for output in self.engine.give_up(error):
                self._deliver(output)

    def _tidy(self) -> None:
        """Ends what is unwanted, if the engine is free; the thread that has it does so when it is done. Then wakes
        those who wait."""
        while self._unwanted and not self._turn.locked():
            with self._turn:
                self._settle()
        with self._gate:
            self._changed.notify_all()

    def _settle(self, waited_for: Sequence[Request] = ()) -> None:
        """Takes arrivals and aborts to the engine, which is free. A request leaves its queue when that is done, so an
        interrupt loses none.

        Args:
            waited_for: those of them that have ended get a last output, if an interrupt took theirs.
        """
        self.engine.mend()
        while self._arrived:
            if not self._arrived[0].finished:
                self.engine.add(self._arrived[0])
            self._arrived.popleft()
        while self._unwanted:
            if (output := self.engine.abort(self._unwanted[0])) is not None:
                self._deliver(output)
            self._unwanted.popleft()
        for request in waited_for:
            if request.finished and not self._mail.get(request.id):
                self._deliver(StepOutput(request, finish_reason=request.finish_reason))

    def _deliver(self, output: StepOutput) -> None:
        request = output.request
        if (box := self._mail.get(request.id)) is not None:
            box.append(output)
        elif request.id in self._listeners:
            _, listener = self._listeners[request.id]
            if output.finish_reason is not None:
                del self._listeners[request.id]
            listener(output)

    def _has_mail(self, requests: Sequence[Request]) -> bool:
        return any(self._mail.get(request.id) for request in requests)

    def _read(self, request: Request) -> list[StepOutput]:
        """Takes a request's outputs out of its box."""
        box = self._mail.get(request.id)
        if box is None:
            raise SpecdecError(f"Request {request.id} was not submitted to this loop, or its outputs have been taken.")
        return [box.popleft() for _ in range(len(box))]
