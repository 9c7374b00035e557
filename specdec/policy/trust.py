"""How far the estimates of chosen drafts are to be trusted: the draft that promises most, promises too much.

Each estimate is right on average. But whoever takes the largest of several takes those that are too large more often
than the others (the winner's curse), and then verifies more nodes than pay. So what chosen drafts promised is compared
with what came of them, for each drafter, and its estimates are scaled by the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PRIOR = 30.0
"""Accepted tokens that an estimate which is right counts for: as it was believed before anything was seen."""
MEMORY = 0.995
"""What a verified draft keeps of its weight after one more of its drafter."""
MOST = 1.2
"""An estimate is raised by no more than this: a drafter that was seldom chosen may have been lucky."""


class Promise(NamedTuple):
    """Accepted tokens that are expected of a draft."""

    drafter: str
    tokens: float


@dataclass
class Record:
    """What was promised, and what came of it; old promises count less and less.

    Args:
        prior: what is believed to have been promised, and kept, before any was seen.
        memory: what a promise keeps of its weight after one more.
    """

    prior: float
    memory: float
    promised: float = 0.0
    kept: float = 0.0

    def observe(self, promised: float, kept: float) -> None:
        """One more."""
        self.promised = self.memory * self.promised + promised
        self.kept = self.memory * self.kept + kept

    @property
    def ratio(self) -> float:
        """What was kept to what was promised."""
        return (self.kept + self.prior) / (self.promised + self.prior)


class Trust:
    """The ratio of accepted tokens to promised ones, by drafter. It holds two numbers a drafter, and one a request."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._promises: dict[int, Promise] = {}

    def of(self, drafter: str) -> float:
        """What a drafter's survivals are to be multiplied by."""
        record = self._records.get(drafter)
        return 1.0 if record is None else min(record.ratio, MOST)

    def promise(self, request_id: int, drafter: str, tokens: float) -> None:
        """A draft was chosen, of which so many accepted tokens are expected by the survivals of its nodes alone."""
        self._promises[request_id] = Promise(drafter, tokens)

    def observe(self, request_id: int, drafter: str, accepted: int) -> None:
        """So many tokens of a drafter's draft were accepted; "" if none was verified."""
        promise = self._promises.pop(request_id, None)
        if promise is not None and promise.drafter == drafter:
            self._records.setdefault(drafter, Record(PRIOR, MEMORY)).observe(promise.tokens, accepted)

    def end(self, request_id: int) -> None:
        """The request ended."""
        self._promises.pop(request_id, None)
