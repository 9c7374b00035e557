"""The loop: batches → loss → step, with curves, simulated τ on held-out answers, and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from specdec.heads.base import ChainHead
from specdec.training.batches import Batches, Batching, Texts
from specdec.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from specdec.training.losses import LossConfig
from specdec.training.objective import Judged, Objective
from specdec.training.schedule import LoopConfig, Schedule, check_clock
from specdec.training.simulate import simulate
from specdec.training.teacher import Teacher

Tell = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Data:
    """What is learnt from, and what it is tried on.

    Args:
        texts: seen by the loss.
        held_out: greedy answers that are not.
        sources: of the prompt of each text, by its number.
    """

    texts: Texts
    held_out: Texts
    sources: tuple[str, ...] = ()

    @property
    def all_lengths(self) -> list[int]:
        """Tokens of each text, by its number."""
        return [*self.texts.lengths.tolist(), *self.held_out.lengths.tolist()]


class Loop:
    """Trains a head.

    Args:
        head: bound to the target; it is on its device.
        teacher: the frozen target.
        data: texts.
        batching, loss, schedule, config: see these.
        checkpoint: its file; a run that finds one goes on from there.
        settings: all that the outcome depends on; a checkpoint of others is refused.
        tell: hears of each point of the curves.
        started: `time.monotonic()` at the start of the run.
    """

    def __init__(
        self,
        head: ChainHead,
        teacher: Teacher,
        data: Data,
        batching: Batching,
        loss: LossConfig,
        schedule: Schedule,
        config: LoopConfig,
        checkpoint: Path,
        settings: dict[str, Any],
        tell: Tell = lambda point: None,
        started: float | None = None,
    ) -> None:
        device = head.draft_ids.device
        self._accelerator = Accelerator(mixed_precision="bf16" if config.bfloat16 else "no", cpu=device.type == "cpu")
        check_clock(schedule, self._accelerator.num_processes)
        self._head, self._teacher, self._data, self._sizes = head, teacher, data, batching
        self._batches, self._schedule, self._config = Batches(data.texts, batching), schedule, config
        self._objective, self._loss = Objective(head, teacher, loss), loss
        self._optimizer = torch.optim.AdamW(
            head.parameters(), schedule.lr, (0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda"
        )
        self._path, self._tell = checkpoint, tell
        self._started = time.monotonic() if started is None else started
        self._progress = Progress(settings)
        if checkpoint.exists():
            self._progress = load_checkpoint(checkpoint, head, self._optimizer, settings)
            self._started -= self._progress.elapsed
        self._wrapped = self._accelerator.prepare_model(self._objective)
        self._begun = self._elapsed()

    def run(self) -> Progress:
        """Until the schedule ends it. Weights are then those of the last step."""
        progress, config = self._progress, self._config
        self._begun, saved, sums = self._elapsed(), time.monotonic(), _Sums(self._accelerator)
        while (done := self._done()) < 1 and not self._stalled():
            sums.add(self._step(done))
            progress.step += 1
            after = self._done()
            if after >= 1 or int(after * config.points) > int(done * config.points):
                evaluate = after >= 1 or int(after * config.evaluations) > int(done * config.evaluations)
                self._point(sums.take(), evaluate)
            if time.monotonic() - saved > config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._save()
        return progress

    def _step(self, done: float) -> list[Judged]:
        """One step of the optimizer; what this process saw of it."""
        accelerator = self._accelerator
        rank, processes, turns = accelerator.process_index, accelerator.num_processes, self._config.accumulate
        whole = self._batches[self._progress.step]
        depth = self._loss.depth(done, self._head.config.num_drafted)
        total = self._objective.weight(whole, depth)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(done)
        judged = []
        for turn in range(turns):
            part = whole.part(turn * processes + rank, processes * turns).to(accelerator.device)
            judged.append(self._wrapped(part, total / processes, depth))  # the gradients of processes are averaged
            accelerator.backward(judged[-1].loss)
        accelerator.clip_grad_norm_(self._head.parameters(), self._config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._progress.tokens += int((whole.lengths - whole.starts).sum())
        return judged

    def _point(self, shown: dict[str, Any], evaluate: bool) -> None:
        elapsed, done = self._elapsed(), self._done()
        left = (elapsed - self._begun) * (1 - done) / max(done, 1e-9)
        progress = self._progress
        point: dict[str, Any] = {
            "step": progress.step,
            "tokens": progress.tokens,
            "seconds": round(elapsed, 1),
            "left": round(left, 1),
            "done": round(done, 4),
        }
        point |= shown
        if evaluate and len(self._data.held_out):
            found = simulate(self._head, self._teacher, self._data.held_out, self._sizes)
            progress.best = max(progress.best, found.tau)
            point["held_out"] = asdict(found)
        progress.curves.append(point)
        self._tell(point)

    def _done(self) -> float:
        return self._schedule.progress(self._progress.step, self._batches.per_epoch, self._elapsed(), self._begun)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _stalled(self) -> bool:
        """Whether the best τ is `patience` evaluations old."""
        taus = [point["held_out"]["tau"] for point in self._progress.curves if "held_out" in point]
        patience = self._config.patience
        return patience is not None and len(taus) > patience and max(taus[-patience:]) <= max(taus[:-patience])

    def _save(self) -> None:
        self._progress.elapsed = self._elapsed()
        if self._accelerator.is_main_process:
            save_checkpoint(self._path, self._head, self._optimizer, self._progress)


class _Sums:
    """Adds up what steps show, where the head is: nobody waits for a device until it is taken."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._steps = accelerator, 0
        self._loss: Tensor | float = 0.0
        self._counts: Tensor | float = 0.0

    def add(self, judged: list[Judged]) -> None:
        """One step."""
        self._steps += 1
        self._loss = self._loss + torch.stack([one.loss.detach() for one in judged]).sum()
        self._counts = self._counts + torch.stack(
            [torch.stack([one.hits, one.accepted, one.rows]) for one in judged]
        ).sum(0)

    def take(self) -> dict[str, Any]:
        """Of all processes since the last time: the mean loss, and by position the share of hits and the chance of
        acceptance at temperature 1."""
        loss = float(self._accelerator.reduce(torch.as_tensor(self._loss), "mean")) / self._steps
        hits, accepted, rows = self._accelerator.reduce(torch.as_tensor(self._counts), "sum").double().cpu()
        self._steps, self._loss, self._counts = 0, 0.0, 0.0
        shares = ((each / rows.clamp(min=1)).tolist() for each in (hits, accepted))
        return {"loss": loss, **dict(zip(("accuracy", "acceptance"), shares, strict=True))}
