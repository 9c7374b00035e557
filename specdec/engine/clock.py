"""Where the time of a step went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from specdec.stats import DecodingStats


@dataclass(frozen=True)
class Share:
    """One request's rows in a pass, and the stats that its part of the time is added to."""

    stats: DecodingStats
    prefill_rows: int
    decode_rows: int


class StepClock:
    """Times one step at a time and divides it among the requests that took part, by their rows."""

    def __init__(self) -> None:
        self._began = 0.0
        self._spent: dict[str, float] = {}
        self.total = 0.0
        """Seconds of all steps so far: the time that a caller waited for the engine, and for nothing else."""

    def start(self) -> None:
        """A step begins."""
        self._began, self._spent = perf_counter(), {"draft": 0.0, "verify": 0.0}

    @contextmanager
    def measure(self, what: Literal["draft", "verify"]) -> Iterator[None]:
        """Adds the time of the block to `what`; the rest of the step is the host's."""
        began = perf_counter()
        yield
        self._spent[what] += perf_counter() - began

    def spent(self, what: Literal["draft", "verify"]) -> float:
        """Seconds of this step so far."""
        return self._spent[what]

    def divide(self, shares: Sequence[Share], drafters: Mapping[str, float]) -> None:
        """Ends the step. Drafting and host work go to those that decode; without any, all of it is prefill.

        Args:
            shares: of all requests that took part.
            drafters: seconds of the drafting by the name of the drafter that took them.
        """
        draft, verify = self._spent["draft"], self._spent["verify"]
        whole = perf_counter() - self._began
        self.total += whole
        host = whole - draft - verify
        rows = sum(share.prefill_rows + share.decode_rows for share in shares)
        decode_rows = sum(share.decode_rows for share in shares)
        for share in shares:
            stats = share.stats
            stats.prefill_seconds += verify * share.prefill_rows / rows
            stats.verify_seconds += verify * share.decode_rows / rows
            if decode_rows:
                stats.draft_seconds += draft * share.decode_rows / decode_rows
                stats.host_seconds += host * share.decode_rows / decode_rows
                for name, seconds in drafters.items():
                    stats.of(name).seconds += seconds * share.decode_rows / decode_rows
            else:
                stats.prefill_seconds += (draft + host) * share.prefill_rows / rows
