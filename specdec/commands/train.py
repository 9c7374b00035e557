"""Trains a head for a target: from prompts that the target makes up, to a folder for `drafter=head`.

specdec train output=FOLDER                                   # small: on a CPU
specdec train output=FOLDER preset=gpu device=cuda schedule.seconds=280

The same command goes on where it was interrupted. See docs/training.md.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.measure.environment import environment
from specdec.places import check_folder, claimed
from specdec.prompts.files import check_there
from specdec.study.config import TRAINING
from specdec.study.plan import check_model_path, instantiate, values_of
from specdec.tracking import SafeTracker
from specdec.training.given import check_given
from specdec.training.progress import bar
from specdec.training.settings import Settings

FILES = ("path", "revision", "allow_pickle", "trust_remote_code", "base_model")
"""Settings of a target that say which files are read; how it runs is the trainer's own business."""


def settings_of(config: DictConfig) -> Settings:
    """Of a composed configuration.

    Raises:
        ConfigError: for a value that cannot work.
    """
    values = values_of(config)
    parts: dict[str, Any] = {name: kind(**values.pop(name)) for name, kind in TRAINING.items()}
    device, target, _ = (values.pop(name) for name in ("device", "target", "tracking"))
    files = {name: target[name] for name in FILES}
    batching = replace(parts.pop("batching"), seed=values["seed"])
    return Settings(**values, **parts, batching=batching, device=device["device"], target=files)


def _train(config: DictConfig) -> None:
    """Trains; one process at a time works in a folder."""
    from specdec.training.run import Run

    started = time.monotonic() - (time.time() - psutil.Process().create_time())
    settings = settings_of(config)
    if config.device.threads is not None:
        torch.set_num_threads(config.device.threads)
    tracker = SafeTracker(instantiate(config.tracking, "tracking"))
    with bar() as show:
        run = Run(settings, lambda line: print(line, flush=True), started, tracker.point, show)
        with claimed(settings.folder / ".lock") if run.is_main else nullcontext():
            if run.is_main:
                settings.folder.mkdir(parents=True, exist_ok=True)
                tracker.start(settings.folder.name, "training", values_of(config), environment(), settings.folder)
            run.train()
            if run.is_main:
                tracker.close()


def _check(config: DictConfig) -> None:
    settings = settings_of(config)
    check_model_path("target.path", settings.target["path"])
    check_folder("output", settings.folder)
    for path in settings.deny:
        check_there(Path(path), "deny")
    check_given(settings.prompts)


main = application("train", _train, _check, told=("command",), word="output")
