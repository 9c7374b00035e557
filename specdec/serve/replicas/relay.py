"""An ASGI app whose messages go over a wire: one side runs it, the other sends what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Scope

UNSENT = 64
"""Messages that may wait to be sent; an app that makes more waits."""
PLAIN = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")


def plain(scope: Scope) -> dict[str, Any]:
    """What an app needs to know of a call, without what belongs to this process. The call's id is in its headers."""
    kept = {name: scope[name] for name in PLAIN if name in scope}
    kept["headers"] = list(scope["headers"])
    MutableHeaders(scope=kept)["x-request-id"] = scope["state"]["request_id"]
    return kept


async def answered(app: ASGIApp, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
    """What an app sends for a call. If it is closed before its end, the app sees that the client has left.

    Args:
        app: of HTTP.
        scope: from `plain`.
        body: all of it.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue(UNSENT)
    left, given = asyncio.Event(), [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(dict(scope), receive, messages.put)
        finally:
            if not left.is_set():
                await messages.put(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
        await task
    finally:
        left.set()
        while not task.done():
            if not messages.empty():
                messages.get_nowait()  # nobody reads it; the app may wait for room
            await asyncio.wait((task,), timeout=0.01)
        if not task.cancelled():
            task.exception()
