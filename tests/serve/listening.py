"""A server that listens at a real address, in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from specdec.serve.server import Server, bound
from specdec.serve.settings import Settings
from tests.serve.services import service


@contextmanager
def listening(settings: Settings | None = None, port: int = 0, **sizes: Any) -> Iterator[str]:
    """Its address; afterwards it is gone, and held nothing."""
    listener = bound("127.0.0.1", port)
    listener.listen()
    with service(settings, **sizes) as made:
        server = Server(made)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = server.force_exit = True
            thread.join(60)
            listener.close()
            assert not thread.is_alive()
