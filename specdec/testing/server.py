"""A `specdec serve` process, for tests and studies that need a real socket."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from socket import create_connection
from types import TracebackType

import psutil

from specdec.errors import SpecdecError
from specdec.serve.server import bound

HOST = "127.0.0.1"
POLL = 0.02
"""Seconds between two looks."""
COUNTED = ("spec_decode_num_drafts", "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens")
"""Steps with a draft, draft tokens and accepted ones, as /metrics names them behind a prefix: ours is vLLM's."""


def free_port() -> int:
    """A port that nobody listens at now."""
    with closing(bound(HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def scraped(url: str) -> dict[str, float]:
    """What a server's /metrics shows, by name; figures that differ in their labels alone are added up."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = dict[str, float]()
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def drafts_counted(metrics: Mapping[str, float]) -> list[int] | None:
    """The figures of COUNTED so far, out of what `scraped` returns; None if the server has no such counters."""
    prefixes = [name.partition(":")[0] for name in metrics if name.endswith(f":{COUNTED[1]}_total")]
    if not prefixes:
        return None
    return [round(metrics.get(f"{prefixes[0]}:{name}_total", 0)) for name in COUNTED]


class ServerProcess:
    """A server that listens once this is made, and is killed at the end of the `with` block.

    Args:
        words: of the command line behind `specdec serve`, but for host and port.
        port: to listen at; None takes a free one.
        log: gets what it writes on its standard error; None is a temporary file.
        seconds: that it may take to listen.

    Raises:
        SpecdecError: if it does not listen in time; with the end of its log.
    """

    def __init__(self, *words: str, port: int | None = None, log: Path | None = None, seconds: float = 300.0) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="specdec-server-")
        self.log = log or Path(self._folder.name) / "log"
        command = [sys.executable, "-m", "specdec", "serve", *words, f"host={HOST}", f"port={self.port}"]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self._wait(time.monotonic() + seconds)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def metrics(self) -> dict[str, float]:
        """What /metrics shows, by name; figures that differ in their labels alone are added up."""
        return scraped(self.url)

    def replicas(self) -> list[int]:
        """Process ids of its replicas, in the order of their engines' numbers."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if (name := process.cmdline()[0]).startswith("ray::ServeReplica"):
                    found[process.pid] = name
        return sorted(found, key=found.__getitem__)

    def terminate(self) -> None:
        """SIGTERM: it takes nothing in any more, and ends when what runs has ended."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    def _wait(self, until: float) -> None:
        """Until it takes connections."""
        while True:
            try:
                create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    end = self.log.read_text(errors="replace")[-2000:] if self.log.is_file() else ""
                    raise SpecdecError(f"The server does not listen at {self.url}. Its log ends: {end}") from None
                time.sleep(POLL)
