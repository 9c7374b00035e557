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
class _Record:
    promised: float = 0.0
    kept: float = 0.0


class Trust:
    """The ratio of accepted tokens to promised ones, by drafter. It holds two numbers a drafter, and one a request."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._promises: dict[int, Promise] = {}

    def of(self, drafter: str) -> float:
        """What a drafter's survivals are to be multiplied by."""
        record = self._records.get(drafter)
        return 1.0 if record is None else min((record.kept + PRIOR) / (record.promised + PRIOR), MOST)

    def promise(self, request_id: int, drafter: str, tokens: float) -> None:
        """A draft was chosen, of which so many accepted tokens are expected by the survivals of its nodes alone."""
        self._promises[request_id] = Promise(drafter, tokens)

    def observe(self, request_id: int, drafter: str, accepted: int) -> None:
        """So many tokens of a drafter's draft were accepted; "" if none was verified."""
        promise = self._promises.pop(request_id, None)
        if promise is not None and promise.drafter == drafter:
            record = self._records.setdefault(drafter, _Record())
            record.promised = MEMORY * record.promised + promise.tokens
            record.kept = MEMORY * record.kept + accepted

    def end(self, request_id: int) -> None:
        """The request ended."""
        self._promises.pop(request_id, None)
