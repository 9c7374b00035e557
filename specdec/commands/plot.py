"""A figure of a study for a paper.

specdec plot runs/<study> figure=speedup output=fig.pdf
specdec plot runs/<study> figure=list
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from specdec import checks
from specdec.commands.application import application
from specdec.errors import ConfigError
from specdec.measure.runs import load_runs
from specdec.places import check_writable
from specdec.report.files import ENDINGS, figure_names, write_figure
from specdec.study.plan import values_of

LIST = "list"


def _plot(config: DictConfig) -> None:
    """Writes the figure and says where it is, or lists those that there are."""
    runs = load_runs(config.study)
    if config.figure == LIST:
        print(*figure_names(runs), sep="\n")
        return
    path = _path(config)
    write_figure(runs, config.figure, path, config.kind, config.width)
    print(path)


def _path(config: DictConfig) -> Path:
    return Path(config.output or f"{config.figure}.pdf")


def _check(config: DictConfig) -> None:
    values_of(config)
    checks.take("width", config.width, checks.whole(100, 10_000))
    if _path(config).suffix not in ENDINGS:
        raise ConfigError(
            f"output={config.output!r} has no known ending. Give a file that ends in {', '.join(ENDINGS)}."
        )
    check_writable("output", _path(config))


main = application("plot", _plot, _check, word="study")
