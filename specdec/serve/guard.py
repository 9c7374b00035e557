"""What every call passes: its key, and an id by which it is found in the log."""

from __future__ import annotations

import hmac
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specdec.serve.errors import ApiError
from specdec.serve.http import failed

OPEN = ("/health", "/ping", "/")
"""They are asked by what watches over the server, and by a browser that has no key yet; they tell nothing."""
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Guard:
    """Around the whole app, as ASGI has it.

    Args:
        app: is called with a `request_id` in its state.
        key: that clients must send; None asks for none.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a call through, or answers 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        id = given if _ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        if scope["path"] in OPEN or self._knows(headers.get("authorization", "")):
            await self._app(scope, receive, send_with_id)
        else:
            error = ApiError(401, "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.")
            await failed(error)(scope, receive, send_with_id)

    def _knows(self, given: str) -> bool:
        """Takes as long for a key that is nearly right as for any other."""
        return self._expected is None or hmac.compare_digest(given.encode(), self._expected)
