"""When a run ends, and how fast it learns until then."""

from __future__ import annotations

import math
from dataclasses import dataclass

from specdec.checks import flag, number, settle, whole
from specdec.errors import ConfigError

_SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_POSITIVE = number(lambda value: 0 < value < float("inf"), "a number > 0")


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast.

    Args:
        epochs: passes over the texts, if `steps` is not given.
        steps: steps of the optimizer; None follows `epochs`.
        seconds: limit of the whole run, from the start of its process. The limit that comes first ends the run. With it
            the learning rate follows the clock, and two runs differ in their last bits.
        lr: largest learning rate.
        warmup: share of the run in which the rate grows linearly from 0.
        floor: share of the largest rate at which the cosine ends.
    """

    epochs: float = 3.0
    steps: int | None = None
    seconds: float | None = None
    lr: float = 6e-4
    warmup: float = 0.04
    floor: float = 0.1

    def __post_init__(self) -> None:
        kinds = {"epochs": _POSITIVE, "steps": whole(1).or_none(), "seconds": _POSITIVE.or_none(), "lr": _POSITIVE}
        settle(self, {**kinds, "warmup": _SHARE, "floor": _SHARE})

    def total(self, per_epoch: int) -> int:
        """Steps, if the clock does not end it before."""
        return self.steps or max(math.ceil(self.epochs * per_epoch), 1)

    def progress(self, step: int, per_epoch: int, elapsed: float, begun: float) -> float:
        """How far the run is, 0 to 1.

        Args:
            step: that comes next, from 0.
            per_epoch: steps of an epoch.
            elapsed: seconds of the run.
            begun: seconds that went by before the first step; learning has what is left.
        """
        by_steps = step / self.total(per_epoch)
        if self.seconds is None:
            return min(by_steps, 1.0)
        return min(max(by_steps, (elapsed - begun) / max(self.seconds - begun, 1e-9)), 1.0)

    def rate(self, progress: float) -> float:
        """Warm-up, then a cosine to the floor."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        along = (progress - self.warmup) / max(1 - self.warmup, 1e-9)
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * along)))


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs.

    Args:
        accumulate: number of parts into which a step's texts are divided, one after the other.
        bfloat16: products of the head in bfloat16; its weights stay float32.
        clip: largest norm of the gradient.
        points: number of points of the curves.
        evaluations: number of simulations on held-out answers.
        patience: end the run after this many simulations without a better τ; None does not.
        checkpoint_seconds: time between checkpoints.
    """

    accumulate: int = 1
    bfloat16: bool = False
    clip: float = 1.0
    points: int = 50
    evaluations: int = 8
    patience: int | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        counts = {"accumulate": whole(1), "points": whole(1), "evaluations": whole(1), "patience": whole(1).or_none()}
        settle(self, {**counts, "bfloat16": flag(), "clip": _POSITIVE, "checkpoint_seconds": _POSITIVE})


def check_clock(schedule: Schedule, processes: int) -> None:
    """Raises ConfigError if several processes would follow clocks of their own."""
    if schedule.seconds is not None and processes > 1:
        raise ConfigError(
            "seconds= is for one process: several would end at steps of their own. Give epochs= or steps=."
        )
