"""One thread at a time changes an engine, and a change that did not come to its end is made good before the next."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from specdec.errors import SpecdecError
from specdec.kernels.cpu.forks import renew_in_child

T = TypeVar("T")


class Owner:
    """Runs an engine's changes one by one.

    An exception may end a change anywhere: an interrupt comes between any two instructions, those of a handler too. So
    nothing is undone on the way out. A mark says that a change has begun, and what finds the mark makes good first.
    Locks are taken by `with` on the lock itself: it lets no interrupt in between taking and releasing.

    Args:
        restore: brings the engine into a sound state, whatever state it is in. It may be interrupted and run again.
    """

    def __init__(self, restore: Callable[[], None]) -> None:
        self._restore = restore
        self._whole = True
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """The thread that changes the engine, if there is one, has not come along into this process."""
        self._busy = Lock()

    def change(self, do: Callable[[], T]) -> T:
        """What `do` returns.

        Raises:
            SpecdecError: if a change is under way, in another thread or further up in this one.
        """
        if self._busy.locked():
            raise SpecdecError(
                "This engine is in the middle of a step: one thread at a time may use it, and nothing that a step "
                "calls may. Use SpeculativeGenerator or EngineLoop, which many threads may share."
            )
        with self._busy:
            self._make_good()
            self._whole = False
            result = do()
            self._whole = True
            return result

    def mend(self) -> None:
        """Makes good a change that did not come to its end, if there is one; raises as `change`."""
        if not self._whole:
            self.change(lambda: None)

    def _make_good(self) -> None:
        if not self._whole:
            self._restore()
            self._whole = True
