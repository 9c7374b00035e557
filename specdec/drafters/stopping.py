"""When a branch has gone far enough: rules that end a draft early, by what is known of the tokens that it has.

A rule is asked about a node whose token was drawn and is *kept*. It may look at that node's branch: at its tokens, and
at the distributions that they were drawn from. So all that comes later is still to be drawn, and no law changes. To
drop a token for what it is, or to look at siblings, would change it (docs/losslessness.md, mutants).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from specdec.checks import number, shown, take
from specdec.drafters.base import Outcome
from specdec.errors import ConfigError
from specdec.models.chains import ChainStop

LEAST = number(lambda value: 0 <= value <= 1, "a number from 0 to 1").or_none(" for the rule's own")
ENTROPY_SCALE = 0.2
"""γ of AdaEDL, which gives this one for all its models."""
BINS = 8
PRIOR_WEIGHT = 4.0
"""Tested tokens that what the drafter says of itself counts for, in each bin."""


class Stop(ABC):
    """A rule that ends branches.

    Args:
        below: a branch ends where its estimate falls below this; None takes `default`.
    """

    name: ClassVar[str]
    default: ClassVar[float]

    def __init__(self, below: float | None = None) -> None:
        self.below = self.default if below is None else below

    @abstractmethod
    def sureness(self, row: Tensor) -> float:
        """What the rule wants to know of a distribution, float [V], that candidates were drawn from."""

    @abstractmethod
    def ends(self, request_id: int, branch: Sequence[float]) -> bool:
        """Whether nothing is drawn below a node.

        Args:
            request_id: whose draft it is.
            branch: sureness of what each token on the way to the node was drawn from, the node's own the last.
        """

    def drafted(self, request_id: int, sureness: Sequence[float]) -> None:  # noqa: B027 - most learn nothing
        """A draft is there; the sureness of each of its nodes."""

    def observe(self, outcome: Outcome, own: bool) -> None:  # noqa: B027
        """What came of a pass; `own` if the draft was this drafter's."""

    def end(self, request_id: int) -> None:  # noqa: B027
        """The request ended."""


class EntropyStop(Stop):
    """Stops where the next token's acceptance cannot be told to be likely: 1 - sqrt(γ H(q)) < `below`.

    AdaEDL (Agrawal, Jeon and Lee 2024). By Pinsker's inequality acceptance is at least 1 - sqrt(KL(q, p) / 2); what is
    not known of the divergence is taken to be proportional to the entropy H(q), in nats.
    """

    name = "entropy"
    default = 0.4

    def sureness(self, row: Tensor) -> float:
        """The estimate of acceptance, 1 - sqrt(γ H), at least 0."""
        entropy = float(-torch.xlogy(row, row).sum())
        return max(1.0 - sqrt(ENTROPY_SCALE * max(entropy, 0.0)), 0.0)

    def ends(self, request_id: int, branch: Sequence[float]) -> bool:
        """See `Stop.ends`."""
        return branch[-1] < self.below


@dataclass
class Calibration:
    """How often tokens were accepted, by the largest probability of what they were drawn from, in `BINS` bins."""

    accepted: list[float] = field(default_factory=lambda: [0.0] * BINS)
    tested: list[float] = field(default_factory=lambda: [0.0] * BINS)

    def chance(self, largest: float) -> float:
        """Of acceptance. The drafter is believed until its tokens were tested."""
        place = self._bin(largest)
        return (self.accepted[place] + PRIOR_WEIGHT * largest) / (self.tested[place] + PRIOR_WEIGHT)

    def learn(self, largest: float, accepted: bool) -> None:
        """One token was tested."""
        self.accepted[self._bin(largest)] += accepted
        self.tested[self._bin(largest)] += 1

    @staticmethod
    def _bin(largest: float) -> int:
        return min(int(largest * BINS), BINS - 1)


class SurvivalStop(Stop):
    """Stops where it is likely that a token of the branch is refused: 1 - Π c > 1 - `below`.

    The form of the best rule (SpecDec++, Huang, Guo and Wang 2024, Theorem 3.1). c is the largest probability of q,
    calibrated on the verdicts of the same request; a largest probability does not depend on what was drawn.
    """

    name = "survival"
    default = 0.3

    def __init__(self, below: float | None = None) -> None:
        super().__init__(below)
        self._calibrations: dict[int, Calibration] = {}
        self._drafted: dict[int, Sequence[float]] = {}

    def sureness(self, row: Tensor) -> float:
        """The largest probability."""
        return float(row.max())

    def ends(self, request_id: int, branch: Sequence[float]) -> bool:
        """See `Stop.ends`."""
        calibration = self._calibrations.get(request_id, Calibration())
        return prod(map(calibration.chance, branch)) < self.below

    def limit(self, request_id: int) -> ChainStop:
        """The same, for a model that draws chains by itself."""
        calibration = self._calibrations.get(request_id, Calibration())
        return ChainStop(self.below, calibration.accepted, calibration.tested, PRIOR_WEIGHT)

    def drafted(self, request_id: int, sureness: Sequence[float]) -> None:
        """See `Stop.drafted`."""
        self._drafted[request_id] = sureness

    def observe(self, outcome: Outcome, own: bool) -> None:
        """Learns from the tokens of the accepted path, and from the first candidate that was refused behind it."""
        sureness = self._drafted.pop(outcome.request_id, ())
        if not own or len(sureness) < len(outcome.tree):
            return
        calibration = self._calibrations.setdefault(outcome.request_id, Calibration())
        for node in outcome.path:
            calibration.learn(sureness[node], True)
        if refused := outcome.tree.refused(outcome.path):
            calibration.learn(sureness[refused[0]], False)

    def end(self, request_id: int) -> None:
        """See `Stop.end`."""
        self._calibrations.pop(request_id, None)
        self._drafted.pop(request_id, None)


RULES: dict[str, type[Stop]] = {each.name: each for each in (EntropyStop, SurvivalStop)}


def stop_rule(stop: object, below: object) -> Stop | None:
    """The rule of the options `stop` and `stop_below`; None for a drafter that always drafts in full.

    Raises:
        ConfigError: for an unknown name, or a bound that is no number from 0 to 1.
    """
    least = take("stop_below", below, LEAST)
    if stop is None:
        return None
    if not isinstance(stop, str) or stop not in RULES:
        raise ConfigError(f"stop = {shown(stop)} cannot work. Give {', '.join(RULES)}, or None to draft in full.")
    return RULES[stop](least)
