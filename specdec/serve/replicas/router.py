"""Takes calls in and hands them to replicas."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from specdec.errors import SpecdecError
from specdec.serve.errors import ApiError
from specdec.serve.guard import Guard
from specdec.serve.http import data_of, failed, unless_left
from specdec.serve.replicas.exposition import merged
from specdec.serve.replicas.ranking import beginning, ranked
from specdec.serve.replicas.relay import plain
from specdec.serve.settings import Settings

LOG = logging.getLogger("specdec.serve")
TRIES = 2
"""Replicas that a call is given to, one after the other, as long as they are lost before they have answered."""


LOST = ApiError(503, "The replica that had this call was lost. Send it again.")
STREAM = b"text/event-stream"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"


class Lost(SpecdecError):
    """A replica has died, or cannot be reached."""


class Replica(Protocol):
    """An engine somewhere else."""

    def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """The ASGI messages that answer a call. Closing it ends the call.

        Raises:
            Lost: at any time.
        """

    async def back(self) -> None:
        """Comes to its end when the replica can be asked again."""

    def close(self) -> None:
        """Ends it."""


class Router:
    """One address for several replicas; `app` is what a server runs.

    A call whose replica is lost before it has answered is given to another one, once. Otherwise its answer breaks off.

    Args:
        replicas: at least one.
        settings: of the server.
    """

    def __init__(self, replicas: Sequence[Replica], settings: Settings) -> None:
        self.settings = settings
        self._replicas, self._running = replicas, [0] * len(replicas)
        self._down: dict[int, asyncio.Task[None]] = {}
        self._draining = False
        self.app = Guard(self._answer, settings.api_key)

    def drain(self) -> None:
        """Takes nothing in any more."""
        self._draining = True

    def close(self) -> None:
        """Ends all replicas."""
        self._draining = True
        for replica in self._replicas:
            replica.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._draining:
                raise ApiError(503, "The server is shutting down. Ask another one.")
            data = await data_of(receive, self.settings.max_body_bytes)
            if scope["path"] == "/metrics":
                await self._metrics(scope, send)
            else:
                await self._relay(scope, data, receive, send)
        except ApiError as error:
            await failed(error)(scope, receive, send)

    async def _relay(self, scope: Scope, data: bytes, receive: Receive, send: Send) -> None:
        """Sends what the first replica answers that is not lost."""
        for index in ranked(beginning(data), self._running, self._down)[:TRIES]:
            sending = Sending(send)
            self._running[index] += 1
            try:
                await unless_left(receive, self._forward(index, scope, data, sending))
                return
            except Lost as error:
                LOG.warning("replica %d is lost: %s", index, error)
                self._miss(index)
                if sending.begun:
                    await sending.break_off()
                    return
            finally:
                self._running[index] -= 1
        raise LOST

    async def _forward(self, index: int, scope: Scope, data: bytes, send: Send) -> None:
        async with aclosing(self._replicas[index].answer(plain(scope), data)) as messages:
            async for message in messages:
                await send(message)

    def _miss(self, index: int) -> None:
        """Asks a lost replica for nothing until it is back."""
        if index not in self._down:
            task = self._down[index] = asyncio.ensure_future(self._replicas[index].back())
            task.add_done_callback(lambda done: self._down.pop(index))

    async def _metrics(self, scope: Scope, send: Send) -> None:
        """Those of all replicas that can be asked."""
        up = [index for index in range(len(self._replicas)) if index not in self._down]
        told = await asyncio.gather(*(self._body(index, plain(scope)) for index in up), return_exceptions=True)
        text = merged([one.decode() for one in told if isinstance(one, bytes)])
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", METRICS)]}
        await send(head)
        await send({"type": "http.response.body", "body": text.encode()})

    async def _body(self, index: int, scope: Mapping[str, Any]) -> bytes:
        async with aclosing(self._replicas[index].answer(scope, b"")) as messages:
            return b"".join([message.get("body", b"") async for message in messages])


class Sending:
    """Sends an answer on, and knows how far it is.

    Args:
        send: to the client.
    """

    def __init__(self, send: Send) -> None:
        self._send, self.begun, self._stream = send, False, False

    async def __call__(self, message: Message) -> None:
        """One message."""
        if message["type"] == "http.response.start":
            self._stream = STREAM in dict(message["headers"]).get(b"content-type", b"")
        self.begun = True
        await self._send(message)

    async def break_off(self) -> None:
        """Ends an answer that cannot be ended well: a stream with an error, another one by closing its connection.

        Raises:
            ConnectionResetError: if it is no stream.
        """
        if not self._stream:
            raise ConnectionResetError(str(LOST))
        text = f"data: {json.dumps(LOST.body)}\n\ndata: [DONE]\n\n"
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": False})
