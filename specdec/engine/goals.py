"""How soon a request's tokens shall come."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.checks import number, settle

_MILLISECONDS = number(lambda value: 0 < value <= 86_400_000, "milliseconds, above 0 and at most a day")
KINDS = {name: _MILLISECONDS.or_none(" for no goal") for name in ("ttft_ms", "tpot_ms")}
"""What each goal may be."""


@dataclass(frozen=True)
class Goals:
    """Latency goals of every request. They move the size of passes and of drafts, and who begins next; no text.

    Args:
        ttft_ms: milliseconds from a request to its first token; None is no goal.
        tpot_ms: milliseconds from its first token to its last one, for each token after the first; None is no goal.

    Raises:
        ConfigError: if a goal is out of range.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def __post_init__(self) -> None:
        settle(self, KINDS)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.ttft_ms is not None or self.tpot_ms is not None

    def met(self, queued: float, first: float, last: float, tokens: int) -> bool:
        """Whether a request that has ended met both.

        Args:
            queued, first, last: seconds by one clock: when it came, and when its first and its last token were there.
            tokens: of its text.
        """
        soon = self.ttft_ms is None or 1e3 * (first - queued) <= self.ttft_ms
        return soon and (self.tpot_ms is None or 1e3 * (last - first) <= self.tpot_ms * max(tokens - 1, 0))
