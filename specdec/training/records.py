"""Tensors with words beside them, in one safetensors file that is written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from specdec.places import write


def write_record(path: Path, tensors: dict[str, Tensor], words: Mapping[str, str]) -> None:
    """Writes both."""
    write(path, save(tensors, dict(words)))


def read_record(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_record` wrote. A file that is none raises whatever its reader does."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
