"""Changed model files end in a text or in an error of ours: never in a signal, a hang, a foreign error, lost memory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specdec.paths import cache_dir
from tests.models.mutations import KINDS, Mutant, make_originals, mutants

ROOT = Path(__file__).parents[2]
FEW = dict.fromkeys(KINDS, 5)
MANY = {
    "safetensors": 110, "index": 40, "config": 150, "generation config": 60, "tokenizer": 100, "tokenizer config": 60,
    "template": 50, "gguf": 120,
}  # fmt: skip
PATIENCE = 30.0
"""Seconds by the clock after which a worker hangs; its own limit counts the processor's alone."""
TO_START = 300.0
MOST_MEMORY = 2**31
"""Bytes that a worker may hold at its peak: the libraries, a cache of at most one GiB, and little more."""


class Worker:
    """A process that loads models, started anew after it died."""

    def __init__(self, cache: Path, sound: Path) -> None:
        self._sound = sound
        self._environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def outcome(self, mutant: Mutant) -> dict[str, Any]:
        """How loading it ended: "ok", "refused", "raw", "killed" or "hung"."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{mutant.path}\n".encode())
        process.stdin.flush()
        return self._answer(PATIENCE)

    def _start(self) -> subprocess.Popen[bytes]:
        """The process, after it loaded a sound model once: kernels are compiled, and what is imported late is."""
        command = [sys.executable, "-m", "tests.models.mutation_worker", str(self._sound)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._answer(TO_START) == "ready"
        return self._process

    def _answer(self, seconds: float) -> Any:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        process.kill()
        process.wait()
        self._process, self.deaths = None, self.deaths + 1
        return {"how": "killed" if ready else "hung", "type": str(process.returncode), "message": "", "peak": 0}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def worker(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    cache, kernels = tmp_path_factory.mktemp("cache") / "specdec", cache_dir() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    cache.mkdir()
    (cache / "kernels").symlink_to(kernels)  # compiled once for all tests; converted weights stay apart
    worker = Worker(cache.parent, originals / "whole")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    make_originals(folder)
    return folder


def check(worker: Worker, originals: Path, into: Path, counts: dict[str, int]) -> dict[str, Counter[str]]:
    """Loads every mutant; returns how many of each kind ended how."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in counts}
    bad, peak = [], 0
    for mutant in mutants(originals, into, counts):
        answer = worker.outcome(mutant)
        found[mutant.kind][answer["how"]] += 1
        peak = max(peak, answer["peak"])
        if answer["how"] not in ("ok", "refused"):
            bad.append(f"{mutant.kind} {mutant.number}: {answer['how']} {answer['type']} {answer['message']}")
    print(*(f"{kind}: {dict(ends)}" for kind, ends in found.items()), f"peak {peak / 2**20:.0f} MiB", sep="\n")
    assert bad == []
    assert peak < MOST_MEMORY
    return found


@pytest.mark.parametrize("name", ["whole", "sharded", "tiny.gguf"])
def test_the_originals_load(worker: Worker, originals: Path, name: str) -> None:
    """Otherwise every mutant would be refused for what it did not change."""
    assert worker.outcome(Mutant(name, 0, originals / name))["how"] == "ok"


def test_a_few_changed_files_end_well(worker: Worker, originals: Path, tmp_path: Path) -> None:
    found = check(worker, originals, tmp_path, FEW)
    assert sum(map(Counter.total, found.values())) == 40


@pytest.mark.slow
def test_many_changed_files_end_well(worker: Worker, originals: Path, tmp_path: Path) -> None:
    found = check(worker, originals, tmp_path, MANY)
    assert sum(map(Counter.total, found.values())) >= 600
    for kind, ends in found.items():
        assert ends["refused"] > 0, f"no change of {kind} was refused: nothing was tried"


def test_a_worker_that_dies_or_hangs_is_noticed(
    worker: Worker, originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that cannot see a fault would pass everything."""
    worker.outcome(Mutant("whole", 0, originals / "whole"))
    monkeypatch.setattr("tests.models.test_mutated_files.PATIENCE", 0.0)
    assert worker.outcome(Mutant("whole", 0, originals / "whole"))["how"] == "hung"
    monkeypatch.undo()
    assert worker.outcome(Mutant("whole", 0, originals / "whole"))["how"] == "ok"
