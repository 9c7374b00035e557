"""Calls of sessions: requests that are under way, and many of them in one batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import finalize

from specdec.checks import shown
from specdec.engine import EngineLoop
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.errors import InvalidRequestError, SpecdecError

T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """Where sessions run.

    Args:
        loop: of the engine.
        tokenizer: transformers' own.
        eos: token ids that end a text.
    """

    loop: EngineLoop
    tokenizer: Any
    eos: tuple[int, ...] = ()


class Call(Generic[T]):
    """What a session was asked for. It is queued when it is made, and runs when somebody waits for it or for another.

    A call that is dropped before it has ended is aborted.

    Args:
        loop: runs its requests.
        requests: of it, from the loop's engine.
        value: what comes of them, given the text of each.
    """

    def __init__(self, loop: EngineLoop, requests: Sequence[Request], value: Callable[[list[str]], T]) -> None:
        self.loop = loop
        self._texts = {request.id: "" for request in requests}
        self.pending = {request.id: request for request in requests}
        """Requests that have not ended."""
        self._value = value
        self._ended: list[T | SpecdecError] = []
        """The result or the error, once it is there."""
        for request in requests:
            loop.submit(request)
        self._leave = finalize(self, loop.leave, list(requests))
        self._leave.atexit = False

    @property
    def done(self) -> bool:
        """Whether `result` has nothing to wait for."""
        return bool(self._ended)

    def result(self) -> T:
        """Runs steps until it is there, those of all other requests too.

        Raises:
            SpecdecError: if one of its requests failed.
        """
        while not self.done:
            hear([self])
        [ended] = self._ended
        if isinstance(ended, SpecdecError):
            raise ended
        return ended

    def take(self, output: StepOutput) -> None:
        """Notes what one of its requests has gained."""
        request = output.request
        self._texts[request.id] += "".join(piece.text for piece in output.pieces)
        if output.finish_reason is None:
            return
        del self.pending[request.id]
        if request.error is not None:
            self._end(_own(request.error))
        elif not self.pending:
            try:
                self._end(self._value(list(self._texts.values())))
            except SpecdecError as error:
                self._end(error)

    def _end(self, ended: T | SpecdecError) -> None:
        self.pending.clear()
        self._ended = self._ended or [ended]
        self._leave()


Program = Generator[Any, Any, Any]
"""A function that yields calls, or lists of calls, and is sent their results; what it returns is what it is for."""


def gather(*work: Call[Any] | Program) -> list[Any]:
    """Runs calls and programs at the same time, in one batch.

    A program is a generator. `text = yield session.gen(params)` waits for a call, `texts = yield [call, call]` for
    several; while it waits the others go on. There are no threads: whoever calls `gather` runs the steps.

    Args:
        work: of sessions of one generator.

    Returns:
        The result of each call, and what each program returns, in order.

    Raises:
        SpecdecError: what a call raises, unless its program catches it. The others are aborted.
        InvalidRequestError: if something is no call and no program, or the sessions are of several generators.
    """
    runs = [_Run(one) for one in work]
    try:
        while waiting := [run for run in runs if not run.ended]:
            hear([call for run in waiting for call in run.calls])
            for run in waiting:
                run.go_on()
    finally:
        for run in runs:
            run.program.close()
            run.calls.clear()
    return [run.value for run in runs]


def hear(calls: Sequence[Call[Any]]) -> None:
    """Waits until one of the calls has gained something, and hands it over."""
    owners = {number: call for call in calls for number in call.pending}
    if not owners:
        return
    loop = calls[0].loop
    if any(call.loop is not loop for call in calls):
        raise InvalidRequestError("These sessions are of several generators. Gather those of each by themselves.")
    requests = [request for call in calls for request in call.pending.values()]
    for output in loop.take(requests):
        if output.request.id in owners[output.request.id].pending:
            owners[output.request.id].take(output)


class _Run:
    """A program, and what it waits for."""

    def __init__(self, work: Call[Any] | Program) -> None:
        self.program = _alone(work) if isinstance(work, Call) else work
        if not isinstance(self.program, Generator):
            raise InvalidRequestError(f"{shown(work)} is neither a call of a session nor a generator. Write a function "
                                      "that yields calls, and call it.")  # fmt: skip
        self.calls: list[Call[Any]] = []
        self.value: Any = None
        self.ended = False
        self._several = False
        self._step(partial(next, self.program))

    def go_on(self) -> None:
        """Hands the program what it waits for, as long as that is there."""
        while not self.ended and all(call.done for call in self.calls):
            try:
                results = [call.result() for call in self.calls]
            except SpecdecError as error:
                self._step(partial(self.program.throw, error))
            else:
                self._step(partial(self.program.send, results if self._several else results[0]))

    def _step(self, advance: Callable[[], Any]) -> None:
        """Runs the program up to its next yield."""
        try:
            wanted = advance()
        except StopIteration as end:
            self.ended, self.value, self.calls = True, end.value, []
            return
        self._several = not isinstance(wanted, Call)
        self.calls = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not all(isinstance(call, Call) for call in self.calls):
            raise InvalidRequestError(
                f"A program yields {shown(wanted)}. Yield a call of a session, or a list of them."
            )


def _alone(call: Call[Any]) -> Program:
    return (yield call)


def _own(error: Exception) -> SpecdecError:
    """Errors of requests are ours, or told as ours."""
    if isinstance(error, SpecdecError):
        return error
    told = SpecdecError(f"The request failed: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told
