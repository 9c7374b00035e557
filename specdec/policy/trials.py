"""Trials of what does not pay by what is known: what they may cost is a share of all time."""

from __future__ import annotations

SHARE = 0.01
"""Of the time of all steps, for each drafter."""
MOST_SAVED = 4.0
"""A purse holds no more than so many trials: a good drafter's time is not saved up for the days when it is poor."""


class Purse:
    """Lets a trial happen once its price has been saved, so that dear trials are rare and cheap ones frequent.

    Args:
        share: of the time that passes.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share, self._saved = share, 0.0

    def earn(self, seconds: float) -> None:
        """Some time has passed."""
        self._saved += self._share * seconds

    def pay(self, price: float) -> bool:
        """Whether a trial of that price, in seconds, may happen; it is paid for then."""
        self._saved = min(self._saved, MOST_SAVED * price)
        if self._saved < price:
            return False
        self._saved -= price
        return True
