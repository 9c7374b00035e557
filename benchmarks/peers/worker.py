"""One contender's process, as the parent sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A worker ended early; the message is the last that it said."""


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Args:
        outputs: new token ids of each prompt.
        seconds: of the engine's call, prefill included.
    """

    outputs: list[list[int]]
    seconds: float


class Worker:
    """Starts the process, and lets it run only while it is being asked: in between it is stopped.

    Engines spin while they wait for work, each in its own way. A stopped process cannot, so the one that is measured
    has the machine to itself, and every engine may keep the waiting policy that suits it.

    Args:
        command: of the script; the settings are appended as JSON.
        settings: see `benchmarks/peers/workers`.
        environment: variables in addition to our own.
        log: where its output goes.

    Raises:
        WorkerError: if it does not get ready.
    """

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, Any], environment: Mapping[str, str], log: Path
    ) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [*command, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=os.environ | environment,
                # A group of its own takes helpers along. In the same session, the system ends it with its parent.
                preexec_fn=os.setpgrp,
            )
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except BaseException:
            self.close()
            raise

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Answer:
        """Decodes one batch.

        Raises:
            WorkerError: if the process ends instead.
        """
        answer = self._asked({"prompts": prompts, "max_tokens": max_tokens})
        return Answer(answer["outputs"], answer["seconds"])

    def losses(self, text: Sequence[int]) -> list[float]:
        """-log p of each token of a text but the first, in nats.

        Raises:
            WorkerError: if the process ends instead.
        """
        losses: list[float] = self._asked({"text": text})["losses"]
        return losses

    def forget(self) -> None:
        """What was decoded so far helps no later request.

        Raises:
            WorkerError: if the process ends instead.
        """
        self._asked({"forget": True})

    def close(self) -> None:
        """Ends the process and its helpers."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that was never read
                pipe.close()

    def _asked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # reading tells why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise WorkerError(f"{last_line(self._log)} (exit status {status})")
        self._signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty: an exception's message, as a rule."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
