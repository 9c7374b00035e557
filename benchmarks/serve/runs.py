"""One run of a tool against a server."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import WorkerError, last_line
from benchmarks.serve import acceptance, load
from benchmarks.serve.clock import share, watched
from benchmarks.serve.load import Goals, Load, Texts
from benchmarks.serve.process import Server


def ran(command: Sequence[str], texts: Texts, result: str, log: Path) -> tuple[Any, list[tuple[float, float]]]:
    """Runs a tool in a folder that has the texts.

    Returns:
        Its result file, and its processor time so far at several times.

    Raises:
        WorkerError: if it fails; with what it says last.
    """
    with tempfile.TemporaryDirectory(prefix="specdec-load-") as name:
        folder = Path(name)
        (folder / load.TEXTS).write_text(load.file_of(texts.prompts), encoding="utf-8")
        environment = {**os.environ, "HF_HOME": name}
        environment.pop("HF_HUB_OFFLINE", None)  # with it aiperf refuses a tokenizer's folder
        status, looks = watched(command, folder, environment, log)
        if status or not (folder / result).is_file():
            raise WorkerError(f"{Path(command[0]).name} says: {last_line(log)} (exit status {status})")
        return json.loads((folder / result).read_text(encoding="utf-8")), looks


def loaded(server: Server, kind: Load, texts: Texts, seed: int, goals: Goals, log: Path) -> dict[str, Any]:
    """One run of aiperf.

    Returns:
        Its figures (`load.read`); counted: drafts by the server's counters; server_mean_ttft_ms: by the server's clock;
        client_cpu: aiperf's share of the machine's processors while calls ran.

    Raises:
        WorkerError: if aiperf fails.
        ValueError: if a call does.
    """
    with server:
        before = server.metrics()
        told, looks = ran(load.command(kind, texts, server.url, seed, goals), texts, f"out/{load.RESULT}", log)
        after = server.metrics()
    return {
        **load.read(told, len(texts.prompts)),
        "counted": acceptance.counted(before, after),
        "server_mean_ttft_ms": acceptance.mean_ttft_ms(before, after),
        "client_cpu": share(looks, *load.window(told), os.cpu_count() or 1),
    }


def benched(server: Server, texts: Texts, log: Path) -> dict[str, Any]:
    """One run of `vllm bench serve` with two clients.

    Returns:
        drafts: as it says; counted: by the server's counters.

    Raises:
        WorkerError: if it fails.
        ValueError: if a call does.
    """
    with server:
        before = server.metrics()
        told, _ = ran(acceptance.command(texts, server.url, clients=2), texts, acceptance.RESULT, log)
        after = server.metrics()
    return {"drafts": acceptance.read(told, len(texts.prompts)), "counted": acceptance.counted(before, after)}
