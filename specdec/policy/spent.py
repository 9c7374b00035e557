"""What drafts take: seconds, smoothed so that they tell of the next one."""

from __future__ import annotations

SMOOTHING = 0.9
"""Weight of the old mean beside a new value."""
FIRST = 4
"""Of so many first values the least counts: a first draft reads weights that nobody has read yet, or compiles. If it
counted, a drafter that seems to cost too much might never get a second one."""
HELD_UP = 3.0
"""What took more than so many times its mean was held up by something else, and counts as so many times."""


class Spent:
    """Seconds of something that is done again and again.

    >>> head = Spent()
    >>> for seconds in (9.0, 1.0, 1.5, 1.0, 2.0):
    ...     head.observe(seconds)
    >>> round(head.seconds, 3)
    1.1
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """What is known; 0 at first."""
        self._times = 0

    @property
    def known(self) -> bool:
        """Whether it was done often enough to tell."""
        return self._times >= FIRST

    def observe(self, seconds: float) -> None:
        """It was done once more."""
        known = self.seconds if self._times else seconds
        usual = min(seconds, HELD_UP * known)
        self.seconds = SMOOTHING * known + (1 - SMOOTHING) * usual if self.known else min(known, seconds)
        self._times += 1
