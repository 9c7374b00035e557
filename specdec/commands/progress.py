"""How far a command is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Thing = TypeVar("Thing")


def shown(things: Sequence[Thing], what: str, console: Console | None = None) -> Iterable[Thing]:
    """The things, one after the other, with a bar that goes when they are done; without a terminal there is no bar.

    Args:
        things: each takes a while.
        what: they are.
        console: the bar's; standard error if left out, since the standard output is for results.
    """
    console = console or Console(stderr=True)
    return track(things, what, console=console, transient=True, disable=not console.is_terminal)
