"""How far a run is: one bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column


@dataclass(frozen=True)
class Stage:
    """How far a part of a run is.

    >>> print(Stage("answers", 0.25, 4000.0, "50,000 of 200,000 tokens"))
    answers 25 %, 1 h 07 min left: 50,000 of 200,000 tokens

    Args:
        what: the part.
        share: that is done, 0 to 1.
        left: seconds that it will still take; None if nothing is known of it.
        told: figures, in words.
    """

    what: str
    share: float
    left: float | None
    told: str

    def __str__(self) -> str:
        left = f", {self.time_left}" if self.time_left else ""
        return f"{self.what} {100 * self.share:.0f} %{left}: {self.told}"

    @property
    def time_left(self) -> str:
        """In words; empty if nothing is known of it."""
        return "" if self.left is None else f"{duration(self.left)} left"


Show = Callable[[Stage], object]


def duration(seconds: float) -> str:
    """In words.

    >>> duration(59.6), duration(61), duration(7260)
    ('1 min', '1 min', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


@contextmanager
def bar(console: Console | None = None) -> Iterator[Show | None]:
    """What moves one bar for all stages; None where there is no terminal for it.

    Args:
        console: where; stdout if left out. What is printed meanwhile stands above the bar.
    """
    console = Console() if console is None else console
    if not console.is_interactive:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[told]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("", total=1.0, left="", told="")
        yield lambda stage: progress.update(
            task, description=stage.what, completed=stage.share, left=stage.time_left, told=stage.told, refresh=True
        )
