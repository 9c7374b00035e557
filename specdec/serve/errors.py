"""Errors as OpenAI's clients expect them: a status, and a body that says what and where."""

from __future__ import annotations

import re
from typing import Any

from specdec.errors import SpecdecError

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestEntityTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
LONGEST = 1000
"""Characters of a message: what a client sent must not come back at length."""
RETRY_AFTER = 1
"""Seconds after which a client may ask again, when the queue was full."""
_NAMED = re.compile(r"([a-z_]+) = ")


class ApiError(SpecdecError):
    """A call that is answered with an error.

    Args:
        status: of HTTP; 4xx says that the call must change, 429 and 503 that it may be sent again.
        message: what is wrong and what to do.
        param: the field that is wrong, if it is one.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param

    @classmethod
    def bad(cls, error: SpecdecError) -> ApiError:
        """Of a refusal, which names the field first if it is about one."""
        named = _NAMED.match(str(error))
        return cls(400, str(error), named[1] if named else None)

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        message = str(self)
        message = message if len(message) <= LONGEST else message[:LONGEST] + "…"
        kind = TYPES.get(self.status, "BadRequestError" if self.status < 500 else "InternalServerError")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.status}}

    @property
    def headers(self) -> dict[str, str]:
        """Whether and when a client may try again; openai's obeys them. The rest of a body that is too large is not
        read, so that its connection cannot be used again."""
        if self.status == 413:
            return {"connection": "close"}
        if self.status == 429:
            return {"retry-after": str(RETRY_AFTER)}
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"x-should-retry": "false"} if self.status == 500 else {}
