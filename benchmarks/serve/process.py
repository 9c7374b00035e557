"""A server's process, as the one who measures it sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.peers.worker import WorkerError, last_line
from benchmarks.serve.contenders import MODEL
from specdec.testing.server import HOST, scraped

POLL = 0.2
"""Seconds between two looks."""


class Server:
    """Starts a server, waits until it is healthy, and stops it: it runs only inside of `with` blocks.

    A server that waits may spin, each in its own way. A stopped one cannot, so the one that is measured shares the
    machine with its client alone.

    Args:
        command: that starts it.
        port: where it then listens.
        environment: variables in addition to our own.
        log: where its output goes.
        seconds: that it may take. Engines that compile take minutes the first time.

    Raises:
        WorkerError: if it does not get healthy; with what its log says last.
    """

    def __init__(
        self, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path, seconds: float = 600.0
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | environment,
                # A group of its own takes helpers along. In the same session, the system ends it with its parent.
                preexec_fn=os.setpgrp,
            )
        try:
            self._wait(time.monotonic() + seconds)
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Server:
        self._signal(signal.SIGCONT)
        return self

    def __exit__(self, *error: object) -> None:
        self._signal(signal.SIGSTOP)

    def metrics(self) -> dict[str, float]:
        """What /metrics shows, by name; figures that differ in their labels alone are added up."""
        return scraped(self.url)

    def ask(self, prompt: str, max_tokens: int) -> None:
        """One greedy chat, whose answer nobody needs: what is done at first use is done.

        Raises:
            OSError: if it is not answered.
        """
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_completion_tokens": max_tokens,
            "temperature": 0,
        }
        words = json.dumps(body).encode(), {"content-type": "application/json"}
        with self, urllib.request.urlopen(urllib.request.Request(f"{self.url}/v1/chat/completions", *words)) as answer:
            answer.read()

    def close(self) -> None:
        """Ends the process and its helpers."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _wait(self, until: float) -> None:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=10):  # an error if not 2xx
                return
            if self._process.poll() is not None:
                raise WorkerError(f"{last_line(self._log)} (exit status {self._process.returncode})")
            if time.monotonic() > until:
                raise WorkerError(f"it was not healthy in time: {last_line(self._log)}")
            time.sleep(POLL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
