"""Which drafters are worth asking: what each one's draft adds to the others', beside the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping

from specdec.policy.trials import Purse

SMOOTHING = 0.9
"""Weight of the old mean beside a new value."""
SHARE = 0.003
"""Of the time of all steps, for asking a drafter that is not worth it."""
HELD_UP = 3.0
"""A drafter that took more than so many times its mean was held up by something else."""


class Worth:
    """Gains and times of drafters whose drafts can be trimmed.

    A drafter's gain is by how much the speed that its draft promises is above the best that the others promise, plain
    decoding among them. It is known of each request, and of all together for those that begin.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Drafter → what it takes for one request."""
        self.weighing = 0.0
        """Seconds that it takes to weigh one draft."""
        self._pool: dict[str, float] = {}
        self._own: dict[int, dict[str, float]] = {}
        self._purses: dict[str, Purse] = {}

    def ask(self, request_id: int, drafter: str, requests: int, seconds: float) -> bool:
        """Whether to ask a drafter for a request.

        Args:
            request_id: the request.
            drafter: name.
            requests: all that wait for the step.
            seconds: of the pass without drafts.
        """
        gain = self._own.get(request_id, {}).get(drafter, self._pool.get(drafter))
        price = self.seconds.get(drafter, 0.0) + self.weighing
        if gain is None or gain * seconds >= requests * price:  # what one request gains, all of them wait for
            return True
        return self._purses.setdefault(drafter, Purse(SHARE)).pay(price)

    def promised(self, request_id: int, speeds: Mapping[str, float], plain: float) -> None:
        """Learns what the drafters that were asked promise, in tokens a second."""
        own = self._own.setdefault(request_id, {})
        for drafter, speed in speeds.items():
            rival = max([plain, *(other for name, other in speeds.items() if name != drafter)])
            gain = max(speed / rival - 1.0, 0.0)
            known = own.get(drafter, self._pool.get(drafter, gain))
            own[drafter] = SMOOTHING * known + (1 - SMOOTHING) * gain
            self._pool[drafter] = SMOOTHING * self._pool.get(drafter, gain) + (1 - SMOOTHING) * gain

    def took(self, drafter: str, seconds: float) -> None:
        """Learns what a drafter took for one request."""
        self.seconds[drafter] = _smoothed(self.seconds.get(drafter, seconds), seconds)

    def weighed(self, seconds: float) -> None:
        """Learns what it took to weigh a draft, once it was there."""
        self.weighing = _smoothed(self.weighing or seconds, seconds)

    def passed(self, seconds: float) -> None:
        """A step took so long."""
        for purse in self._purses.values():
            purse.earn(seconds)

    def end(self, request_id: int) -> None:
        """Forgets a request."""
        self._own.pop(request_id, None)


def _smoothed(known: float, seconds: float) -> float:
    return SMOOTHING * known + (1 - SMOOTHING) * min(seconds, HELD_UP * known)
