"""Tells what a trained head is, for which target, and why it cannot be used (docs/heads.md).

specdec head inspect FOLDER [target.path=MODEL]

Exit code 1 if its files are whole but it cannot draft for the target.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from specdec import checks
from specdec.commands.application import application
from specdec.errors import ConfigError
from specdec.heads.config import TargetSizes
from specdec.heads.description import described
from specdec.heads.files import build, read_parts
from specdec.models.loading import load
from specdec.models.sources import EMBEDDED_NAME
from specdec.study.plan import check_model_path, values_of


def _inspect(config: DictConfig) -> None:
    """A line for each thing that is known of it, and whether it fits."""
    values, folder = values_of(config), Path(config.folder)
    target = TargetSizes.of(load(**values["target"]).model)
    form, parts = read_parts(folder, target, config.numbering, config.pickled)
    head = build(folder, form, parts)
    numbers = sum(weight.numel() for weight in head.parameters())
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    reason = parts.config.why_not(target)
    lines = {
        "folder": f"{folder}, {stored} bytes, layout {form.name}",
        **dict(parts.note),
        **described(parts.config),
        "weights": f"{numbers} numbers, all there, finite and of the right shape",
        f"for {values['target']['path'] or EMBEDDED_NAME}": f"no: {reason}" if reason else "yes",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{_printable(name):<{width}}  {_printable(value)}")
    if reason:
        sys.exit(1)


def _printable(text: str) -> str:
    """Without what would steer a terminal: the files are anyone's."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _check(config: DictConfig) -> None:
    values = values_of(config)
    check_model_path("target.path", values["target"]["path"])
    if config.numbering not in (None, "boundary", "output"):
        raise ConfigError(f"numbering = {checks.shown(config.numbering)} cannot work. Give boundary, output or null.")
    if not Path(config.folder).is_dir():
        raise ConfigError(f"folder={config.folder!r}: there is no such folder. Give the folder of a head.")


main = application("head_inspect", _inspect, _check, word="folder")
