"""Learning which of several arms is best while using them: four algorithms over losses in [0, 1], and what is proven.

Regret is the total loss minus that of the arm that was best in hindsight, after T steps with K arms. The bounds hold
where the same arms are offered in every step; an arm that is left out of a step keeps what is known of it. None of them
needs to know T. Each keeps one number or two for an arm, however long it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, sqrt

Arm = str
Chances = dict[Arm, float]
"""A probability for each arm that is offered; they sum to 1."""


def weighed(losses: Mapping[Arm, float], arms: Sequence[Arm], rate: float) -> Chances:
    """Exponential weights of the arms: exp(-rate · loss), normalised. An infinite rate shares among the least."""
    least = min(losses.get(arm, 0.0) for arm in arms)
    weights = {arm: _weight(rate, losses.get(arm, 0.0) - least) for arm in arms}
    total = sum(weights.values())
    return {arm: weight / total for arm, weight in weights.items()}


def _weight(rate: float, excess: float) -> float:
    return 1.0 if excess == 0 else 0.0 if rate == inf else exp(-rate * excess)


@dataclass
class Hedge:
    """For losses of *every* arm in every step. AdaHedge (de Rooij, van Erven, Grünwald and Koolen 2014).

    Regret ≤ sqrt(T ln K) + 4/3 ln K + 2, in expectation over the draw of the arm, whatever the losses are (their
    Corollary 7 for losses in [0, 1]). It assumes nothing. Where one arm is better by a constant, regret stays bounded.
    """

    losses: dict[Arm, float] = field(default_factory=dict)
    gap: float = 0.0
    """What mixing has lost so far against the mix loss; the learning rate is ln K over it."""

    def chances(self, arms: Sequence[Arm]) -> Chances:
        """How likely each arm should be taken."""
        return weighed(self.losses, arms, self._rate(len(arms)))

    def learn(self, losses: Mapping[Arm, float]) -> None:
        """Takes notice of a step.

        Args:
            losses: of every arm that was offered.
        """
        arms = list(losses)
        chances = self.chances(arms)
        mean = sum(chances[arm] * loss for arm, loss in losses.items())
        self.gap += max(mean - self._mix_loss(chances, losses), 0.0)
        for arm, loss in losses.items():
            self.losses[arm] = self.losses.get(arm, 0.0) + loss

    def _mix_loss(self, chances: Chances, losses: Mapping[Arm, float]) -> float:
        """-1/rate · ln Σ chance · exp(-rate · loss), which a single best arm can be compared with."""
        rate = self._rate(len(losses))
        taken = [(chance, losses[arm]) for arm, chance in chances.items() if chance > 0]
        least = min(loss for _, loss in taken)
        if rate in (0.0, inf):
            return least if rate == inf else sum(chance * loss for chance, loss in taken)
        return least - log(sum(chance * exp(-rate * (loss - least)) for chance, loss in taken)) / rate

    def _rate(self, num_arms: int) -> float:
        return log(num_arms) / self.gap if self.gap else inf


@dataclass
class Exp3:
    """For the loss of the arm that was drawn, alone (Auer, Cesa-Bianchi, Freund and Schapire 2002).

    Expected regret ≤ 2 sqrt(T K ln K), whatever the losses are, as long as they do not depend on the draws of the same
    step (Bubeck and Cesa-Bianchi 2012, Theorem 3.1, with learning rate sqrt(ln K / (t K)) in step t).
    """

    losses: dict[Arm, float] = field(default_factory=dict)
    """Sum of loss / chance over the steps in which the arm was drawn: on average, the sum of its losses."""
    steps: int = 0

    def chances(self, arms: Sequence[Arm]) -> Chances:
        """The law by which the arm is to be drawn."""
        return weighed(self.losses, arms, _bandit_rate(len(arms), len(arms), self.steps))

    def learn(self, arm: Arm, chance: float, loss: float) -> None:
        """Takes notice of a draw.

        Args:
            arm: that was drawn.
            chance: that it had.
            loss: that came of it.
        """
        self.steps += 1
        self.losses[arm] = self.losses.get(arm, 0.0) + loss / chance


@dataclass
class Exp4:
    """Experts each say how arms should be drawn; finds the best *expert* from the drawn arm's loss (Auer et al. 2002;
    Clipper, Crankshaw et al. 2017, chooses among models by it).

    Expected regret against the best of N experts ≤ 2 sqrt(T K ln N), whatever the losses are (Bubeck and Cesa-Bianchi
    2012, Theorem 4.2). Experts may be anything that is a function of the past.
    """

    losses: dict[Arm, float] = field(default_factory=dict)
    """By expert: on average, the sum of the losses that its advice would have had."""
    steps: int = 0

    def chances(self, advice: Mapping[str, Chances]) -> Chances:
        """The law by which the arm is to be drawn.

        Args:
            advice: of each expert, over the same arms; a missing arm has no chance.
        """
        arms = list(dict.fromkeys(arm for chances in advice.values() for arm in chances))
        weights = weighed(self.losses, list(advice), _bandit_rate(len(advice), len(arms), self.steps))
        return {arm: sum(weights[expert] * advice[expert].get(arm, 0.0) for expert in advice) for arm in arms}

    def learn(self, advice: Mapping[str, Chances], arm: Arm, chance: float, loss: float) -> None:
        """Takes notice of a draw; arguments as in `chances` and `Exp3.learn`."""
        self.steps += 1
        for expert, chances in advice.items():
            self.losses[expert] = self.losses.get(expert, 0.0) + chances.get(arm, 0.0) * loss / chance


def _bandit_rate(num_weighed: int, num_arms: int, steps: int) -> float:
    return sqrt(log(num_weighed) / ((steps + 1) * num_arms))


@dataclass
class Ucb1:
    """For rewards whose law does not change: the arm with the largest upper confidence bound of its mean.

    Expected regret ≤ Σ 8 ln T / Δ + (1 + π²/3) Σ Δ over the arms that are worse by Δ > 0 (Auer, Cesa-Bianchi and
    Fischer 2002, Theorem 1). It assumes that an arm's rewards in [0, 1] are independent and have one mean.
    """

    counts: dict[Arm, int] = field(default_factory=dict)
    means: dict[Arm, float] = field(default_factory=dict)

    def best(self, arms: Sequence[Arm]) -> Arm:
        """The arm to take: one that was never taken, or that of the largest mean + sqrt(2 ln t / its own count)."""
        return max(arms, key=self._bound)  # the first of equals

    def learn(self, arm: Arm, reward: float) -> None:
        """Takes notice of the reward of the arm that was taken."""
        count = self.counts[arm] = self.counts.get(arm, 0) + 1
        mean = self.means.get(arm, 0.0)
        self.means[arm] = mean + (reward - mean) / count

    def _bound(self, arm: Arm) -> float:
        count = self.counts.get(arm, 0)
        return self.means[arm] + sqrt(2 * log(sum(self.counts.values())) / count) if count else inf
