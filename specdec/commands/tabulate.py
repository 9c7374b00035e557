"""The methods of a study as a table for a paper.

specdec table runs/<study> format=latex [output=table.tex]
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.errors import ConfigError
from specdec.measure.runs import load_runs
from specdec.places import check_writable, write
from specdec.report.tables import FORMATS, blocks
from specdec.study.plan import values_of


def _tabulate(config: DictConfig) -> None:
    """Prints the table, or writes it and says where it is."""
    text = FORMATS[config.format](blocks(load_runs(config.study)))
    if config.output is None:
        print(text, end="")
    else:
        write(Path(config.output), text)
        print(config.output)


def _check(config: DictConfig) -> None:
    values_of(config)
    if config.format not in FORMATS:
        raise ConfigError(f"format={config.format!r} is unknown. Give one of {', '.join(FORMATS)}.")
    check_writable("output", config.output)


main = application("table", _tabulate, _check, word="study")
