"""What a pass costs is measured right beside other work, and by one process at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest

from specdec.policy import cost
from specdec.policy.cost import MOST_ROUNDS, cost_curve
from specdec.policy.curve import CostCurve
from tests.tiny import llama

TRUE = {1: 1.0, 2: 1.0, 4: 1.1, 8: 1.2, 12: 1.4, 16: 1.6, 24: 2.3, 32: 3.0, 48: 4.4, 64: 6.0}


class Machine:
    """Passes on a clock of its own.

    Args:
        busy: share of the passes that something else makes longer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy: float, seed: int) -> None:
        self.now, self.passes, self._busy, self._random = 0.0, 0, busy, Random(seed)
        monkeypatch.setattr(cost, "_run", self._run)
        monkeypatch.setattr(cost, "perf_counter", lambda: self.now)

    def _run(self, model: Any, cache: Any, sequence: int, rows: int) -> None:
        self.passes += 1
        disturbed = self._random.random() < self._busy
        self.now += TRUE[rows] * (self._random.uniform(1.3, 3.0) if disturbed else self._random.uniform(1.0, 1.01))


@pytest.mark.parametrize("busy", [0.0, 0.4, 0.7])
def test_a_busy_machine_takes_more_turns_and_no_other_curve(monkeypatch: pytest.MonkeyPatch, busy: float) -> None:
    """That a kind meets no quiet moment, but three that agree, has a chance of 1 in 100 a curve; seeds are fixed."""
    turns = []
    for seed in range(8):
        machine = Machine(monkeypatch, busy, seed)
        curve = cost.measure(llama(0))
        assert curve.seconds == pytest.approx(list(TRUE.values()), rel=0.02)
        turns.append(machine.passes // (len(TRUE) + 2))
    assert (max(turns) == 7) == (busy == 0.0)
    assert max(turns) < MOST_ROUNDS


def test_a_machine_that_is_never_quiet_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1.0, 0)
    curve = cost.measure(llama(0))
    assert list(curve.seconds) == sorted(curve.seconds)
    assert machine.passes <= MOST_ROUNDS * (len(TRUE) + 2)


def test_of_two_that_begin_together_one_measures_and_the_other_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, begun, measured = CostCurve((1, 2), (1.0, 2.0)), Event(), list[int]()

    def measure(model: Any) -> CostCurve:
        measured.append(1)
        begun.set()
        assert not waits.done()
        return known

    monkeypatch.setattr(cost, "measure", measure)
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(lambda: begun.wait(60) and cost_curve(llama(0), tmp_path))
        assert pool.submit(cost_curve, llama(0), tmp_path).result() == known
        assert waits.result() == known
    assert len(measured) == 1
