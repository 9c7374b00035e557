"""Where a run is: what it takes to go on as if it had not been interrupted, to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from specdec.errors import ConfigError
from specdec.training.records import read_record, write_record

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


@dataclass
class Progress:
    """What a run has done.

    Args:
        settings: all that its outcome depends on.
        step: that comes next.
        elapsed: seconds, of all its processes one after the other.
        tokens: of answers, seen by the loss.
        curves: one record for each point.
        best: the largest simulated τ.
    """

    settings: dict[str, Any]
    step: int = 0
    elapsed: float = 0.0
    tokens: int = 0
    curves: list[dict[str, Any]] = field(default_factory=list)
    best: float = 0.0


def save_checkpoint(path: Path, head: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Writes weights, the optimizer's moments and the progress into one file, all or nothing."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in head.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value
    tensors = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    write_record(path, tensors, {"progress": json.dumps(asdict(progress))})


def load_checkpoint(
    path: Path, head: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> Progress:
    """Puts everything back.

    Raises:
        ConfigError: if the file is damaged, or was written with other settings.
    """
    try:
        tensors, words = read_record(path)
        progress = Progress(**json.loads(words["progress"]))
    except Exception as error:
        raise ConfigError(f"{path} is damaged: {error}. Delete it to begin again.") from error
    if progress.settings != settings:
        other = sorted(name for name in settings if progress.settings.get(name) != settings[name])
        raise ConfigError(f"{path} is of a run with another {', '.join(other) or 'setting'}. Give another output=….")
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            kept = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
            counts_apart = not optimizer.defaults.get("fused")  # only a fused step counts on the device
            optimizer.state[parameter] = {
                moment: value if moment == "step" and counts_apart else value.to(parameter.device)
                for moment, value in kept.items()
            }
    return progress
