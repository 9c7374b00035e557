"""What a step was worth, for policies that learn from it: its speed beside plain decoding's, and never its length.

A slow drafter whose drafts are long has a large τ and loses time. So a reward is of tokens a second.
"""

from __future__ import annotations

from math import inf

from specdec.checks import number, take

CEILING = number(lambda value: 1 <= value < inf, "a finite number >= 1")
DEFAULT_CEILING = 2.0


class RelativeSpeed:
    """Rewards in [0, 1]: tokens of a request in a step, times the seconds of that step without drafts, over the seconds
    that it took (drafting and pass), over `ceiling`.

    Every request of a step waits for all of it. The mean over steps is an arm's speed as far as its steps take equally
    long, which they do if its drafts are of one size.

    Args:
        ceiling: times plain decoding's speed that count as 1; what is faster counts as no more. Regret is in this unit:
            the lower it is the sooner arms are told apart, and the more of the fast steps look alike.

    Raises:
        ConfigError: if the ceiling is no number from 1 on.
    """

    def __init__(self, ceiling: float = DEFAULT_CEILING) -> None:
        self._ceiling: float = take("ceiling", ceiling, CEILING)
        self._plain = self._drafting = self._passing = 0.0

    def begin(self, plain: float) -> None:
        """A step begins, which would take `plain` seconds without drafts."""
        self._plain, self._drafting, self._passing = plain, 0.0, 0.0

    def drafted(self, seconds: float) -> None:
        """A drafter took so long."""
        self._drafting += seconds

    def passed(self, seconds: float) -> None:
        """The target's pass took so long."""
        self._passing = seconds

    def of(self, tokens: int) -> float:
        """The reward of a request that gained so many tokens."""
        seconds = self._drafting + self._passing
        return min(tokens * self._plain / (seconds * self._ceiling), 1.0) if seconds else 0.0
