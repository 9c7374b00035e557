"""A minute of learning in seconds: acceptance improves, and an interrupted run ends as one that was not, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from specdec.errors import ConfigError
from specdec.training import loop as loops
from specdec.training.batches import Batching
from specdec.training.checkpoint import Progress
from specdec.training.loop import Data, Loop
from specdec.training.losses import LossConfig
from specdec.training.schedule import LoopConfig, Schedule
from specdec.training.simulate import simulate
from tests.training import scenes

BATCHING = Batching(texts=8, anchors=16, max_length=64)


def a_loop(folder: Path, steps: int, *, often: bool = False, texts: int = 64, **config: Any) -> Loop:
    module = scenes.target(1)
    head = scenes.head(module, block_size=2)
    data = Data(scenes.texts(module, texts, seed=3), scenes.texts(module, 16, seed=4))
    return Loop(
        head,
        scenes.teacher(module, head),
        data,
        BATCHING,
        LossConfig(),
        Schedule(steps=steps, lr=1e-2),
        LoopConfig(**{"points": 4, "evaluations": 2, "checkpoint_seconds": 1e-9 if often else 1e9} | config),
        folder / "checkpoint.safetensors",
        {"steps": steps},
    )


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop._head.parameters()])


def test_acceptance_improves(tmp_path: Path) -> None:
    run = a_loop(tmp_path, 150, texts=400)
    before = simulate(run._head, run._teacher, run._data.held_out, BATCHING).tau
    progress = run.run()
    first, last = progress.curves[0], progress.curves[-1]
    assert last["loss"] < 0.95 * first["loss"]
    assert last["accuracy"][0] > first["accuracy"][0] + 0.05
    assert last["held_out"]["tau"] > before + 0.1
    assert last["held_out"]["tau"] == simulate(run._head, run._teacher, run._data.held_out, BATCHING).tau
    assert progress.step == 150
    assert len(progress.curves) == 4


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = a_loop(tmp_path / "whole", 8, accumulate=2)
    expected = whole.run()
    cut = a_loop(tmp_path / "cut", 8, often=True, accumulate=2)
    saves = 0

    def killed(*given: Any) -> None:
        nonlocal saves
        loops_save(*given)
        saves += 1
        if saves == 4:
            raise KeyboardInterrupt

    loops_save = loops.save_checkpoint
    monkeypatch.setattr(loops, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = a_loop(tmp_path / "cut", 8, often=True, accumulate=2)
    assert again._progress.step == 4
    found = again.run()
    assert torch.equal(weights(again), weights(whole))
    assert told(found) == told(expected)


def told(progress: Progress) -> list[dict[str, Any]]:
    """Without times, and without the sums over the steps since the last point, which begin anew."""
    clocks = ("seconds", "left", "loss", "accuracy", "acceptance")
    return [{name: value for name, value in point.items() if name not in clocks} for point in progress.curves]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    a_loop(tmp_path, 1).run()
    with pytest.raises(ConfigError, match="is of a run with another steps"):
        a_loop(tmp_path, 2)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="damaged"):
        a_loop(tmp_path, 1)


def test_batches_in_turn_are_the_batch_at_once(tmp_path: Path) -> None:
    one, two = (a_loop(tmp_path / str(turns), 3, accumulate=turns) for turns in (1, 2))
    shown = [each.run().curves[-1] for each in (one, two)]
    assert shown[0]["loss"] == pytest.approx(shown[1]["loss"], rel=1e-3)
    assert torch.allclose(weights(one), weights(two), atol=1e-3)


def test_a_run_ends_when_nothing_improves(tmp_path: Path) -> None:
    run = a_loop(tmp_path, 40, points=40, evaluations=40, patience=2)
    run._schedule = replace(run._schedule, lr=1e-30)
    assert run.run().step == 3  # one evaluation, and two that are no better


@pytest.mark.parametrize(
    ("schedule", "step", "elapsed", "progress"),
    [
        (Schedule(steps=10), 5, 99.0, 0.5),
        (Schedule(epochs=2), 10, 0.0, 0.5),
        (Schedule(steps=10, seconds=100), 1, 60.0, 0.5),  # 20 went by before: 40 of 80
        (Schedule(steps=10, seconds=100), 9, 30.0, 0.9),
        (Schedule(steps=10, seconds=100), 1, 300.0, 1.0),
    ],
)
def test_progress_is_of_the_limit_that_comes_first(
    schedule: Schedule, step: int, elapsed: float, progress: float
) -> None:
    assert schedule.progress(step, 10, elapsed, 20.0) == pytest.approx(progress)


def test_the_rate_grows_and_falls() -> None:
    schedule = Schedule(lr=2.0, warmup=0.1, floor=0.25)
    assert [schedule.rate(x) for x in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 1, 2, 1.25, 0.5])
