"""uvicorn around a service: a socket, signals, and an end in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from specdec.errors import ConfigError
from specdec.serve.settings import Settings

LOG = logging.getLogger("specdec.serve")
BACKLOG = 2048
"""Connections that wait to be taken."""
IDLE_SECONDS = 75
"""After which a connection without a call is closed. Clients close theirs sooner (httpx after 5 s); with the same time
on both sides, a call may be sent on a connection that is just being closed."""


class Served(Protocol):
    """What is served: one engine, or several behind a router."""

    settings: Settings

    @property
    def app(self) -> ASGIApp:
        """Answers."""

    def drain(self) -> None:
        """Takes nothing in any more."""

    def close(self) -> None:
        """Takes nothing in any more, and ends what runs."""


class Server(uvicorn.Server):
    """Ends at the first signal once all that runs has ended, and at the second one at once.

    Args:
        service: what is served.
    """

    def __init__(self, service: Served) -> None:
        self._service, settings = service, service.settings
        super().__init__(
            uvicorn.Config(
                service.app,
                host=settings.host,
                port=settings.port,
                access_log=False,
                log_config=None,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self._service.drain()
        self.force_exit = self.should_exit
        self.should_exit = True

    def serve_until_told(self) -> None:
        """Listens until a signal comes.

        Raises:
            ConfigError: if the address cannot be had.
        """
        listener = bound(self._service.settings.host, self._service.settings.port)
        try:
            listener.listen(BACKLOG)
            host, port = listener.getsockname()[:2]
            LOG.info("listening at http://%s:%d", f"[{host}]" if ":" in host else host, port)
            asyncio.run(self.serve([listener]))
        finally:
            listener.close()
            self._service.close()


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address; of port 0 it has a free one.

    Raises:
        ConfigError: if the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"host={host!r} port={port} cannot be used: {error}. Give another port, or 0 for a free one."
        ) from error
    return listener
