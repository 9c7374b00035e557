"""The answers of a study as Spec-Bench writes them, for its scripts.

specdec answers runs/<study> output=FOLDER
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.measure.runs import load_runs
from specdec.places import check_folder
from specdec.report.specbench import write_answers
from specdec.study.plan import values_of


def _write(config: DictConfig) -> None:
    """Writes the files and says where they are."""
    print(*write_answers(load_runs(config.study), _folder(config)), sep="\n")


def _folder(config: DictConfig) -> Path:
    return Path(config.output or Path(config.study) / "answers")


def _check(config: DictConfig) -> None:
    values_of(config)
    check_folder("output", _folder(config))


main = application("answers", _write, _check, word="study")
