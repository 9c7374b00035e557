"""Bodies in, answers out, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from specdec.serve.errors import ApiError

T = TypeVar("T")
KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream gets a comment, which clients skip and which keeps proxies waiting."""

DROPPED = 4
"""A body so many times too large is read to its end, and dropped: many clients read no answer before they have sent
all. After that the connection is closed."""


class Json(Response):
    """A body of JSON; NaN and infinities are none."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As ASCII, so that any text can be sent."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def failed(error: ApiError) -> Json:
    """An error's answer."""
    return Json(error.body, error.status, error.headers)


async def data_of(receive: Receive, most: int) -> bytes:
    """A body, as far as its client sends it.

    Raises:
        ApiError: 413 if it has more than `most` bytes.
    """
    data, size, more = bytearray(), 0, True
    while more and size <= DROPPED * most:
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= most:
            data += part
        more = message.get("more_body", False)
    if size > most:
        raise ApiError(413, f"The body has more than {most} bytes. Send less.")
    return bytes(data)


async def body_of(request: Request, most: int) -> dict[str, Any]:
    """A body that is a JSON object.

    Raises:
        ApiError: 413 if it has more than `most` bytes, 400 if it is none.
    """
    try:
        body = json.loads(await data_of(request.receive, most), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON that can be read: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body is JSON, but no object. Send {…}.")
    return body


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


async def unless_left(receive: Receive, work: Awaitable[T]) -> T | None:
    """What `work` returns; None if the client leaves before, and then it is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Comes to its end when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, until they end or the client leaves; comments where nothing comes for a while.

    Args:
        events: are closed then.
        ended: is called then.
        silence: seconds after which there is a comment.
    """

    def __init__(
        self, events: AsyncGenerator[str, None], ended: Callable[[], None], silence: float = KEEP_ALIVE
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._events, self._ended, self._silence = events, ended, silence
        self._last = 0.0
        """When something was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all of them."""
        try:
            await unless_left(receive, self._send(send))
        finally:
            self._ended()

    async def _send(self, send: Send) -> None:
        comments = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._last = time.monotonic()
            comments = asyncio.ensure_future(self._comment(send))
            async for text in self._events:
                self._last = time.monotonic()
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if comments is not None:
                comments.cancel()
                await asyncio.gather(comments, return_exceptions=True)
            await self._events.aclose()

    async def _comment(self, send: Send) -> None:
        """One task beside the events: a timer for each of them would cost more than the event."""
        while True:
            silent = time.monotonic() - self._last
            if silent >= self._silence:
                self._last = time.monotonic()
                await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
            else:
                await asyncio.sleep(self._silence - silent)
