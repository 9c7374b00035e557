"""How much an algorithm that chooses among drafters loses to the best drafter, by length: the proven bound and the
measured loss. BanditSpec (Hou et al. 2025) uses UCB and EXP3. HedgeSpec (Liu et al. 2025) uses an algorithm that is
told every drafter's loss.

There are four arms, with losses 0 or 1. Regret is the loss above that of the arm that was best in hindsight. *One
best*: the mean of each arm stays the same. *Against it*: only the arm that the algorithm favours loses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import log, pi, sqrt
from random import Random
from statistics import fmean, stdev
from typing import Any, ClassVar

from experiments.reproduce.options import Options
from specdec.policy.learners import Arm, Chances, Exp3, Exp4, Hedge, Ucb1

TITLE = "Regret by length"
ARMS = ("a", "b", "c", "d")
MEANS = dict(zip(ARMS, (0.2, 0.5, 0.6, 0.7), strict=True))
"""Losses of the arms that keep their means."""
LENGTHS, SEEDS, QUICK = (1024, 4096, 16384), 16, 16
"""Steps, draws of each, and how much shorter a quick run is."""

Adversary = Callable[[Arm, Random], Mapping[Arm, float]]
"""The arm that is favoured, random numbers → the losses of all arms."""


def one_best(favourite: Arm, random: Random) -> Mapping[Arm, float]:
    """Each arm loses by its own mean."""
    return {arm: float(random.random() < mean) for arm, mean in MEANS.items()}


def against(favourite: Arm, random: Random) -> Mapping[Arm, float]:
    """The favourite loses."""
    return {arm: float(arm == favourite) for arm in ARMS}


ADVERSARIES: Mapping[str, Adversary] = {"one best": one_best, "against it": against}


class Player(ABC):
    """An algorithm at work: what it would draw an arm by, and what it learns."""

    published: ClassVar[str]
    """Who takes it for drafters, and how its regret grows there."""
    assumes: ClassVar[bool] = False
    """Whether its bound holds only for arms that keep their means."""

    @staticmethod
    @abstractmethod
    def bound(length: int) -> float:
        """Of its expected regret."""

    @abstractmethod
    def chances(self) -> Chances:
        """Of every arm in this step."""

    @abstractmethod
    def learn(self, arm: Arm, chances: Chances, losses: Mapping[Arm, float]) -> None:
        """The arm that was drawn, by which chances, and the losses of all; it looks at those that it may see."""


class HedgePlayer(Player):
    """Is told all losses."""

    published = "HedgeSpec: as the root"

    def __init__(self) -> None:
        self._learner = Hedge()

    @staticmethod
    def bound(length: int) -> float:
        """See `Hedge`."""
        return sqrt(length * log(len(ARMS))) + 4 / 3 * log(len(ARMS)) + 2

    def chances(self) -> Chances:
        """See `Player`."""
        return self._learner.chances(ARMS)

    def learn(self, arm: Arm, chances: Chances, losses: Mapping[Arm, float]) -> None:
        """See `Player`."""
        self._learner.learn(losses)


class Exp3Player(Player):
    """Is told the drawn arm's loss."""

    published = "EXP3Spec: as the root"

    def __init__(self) -> None:
        self._learner = Exp3()

    @staticmethod
    def bound(length: int) -> float:
        """See `Exp3`."""
        return 2 * sqrt(length * len(ARMS) * log(len(ARMS)))

    def chances(self) -> Chances:
        """See `Player`."""
        return self._learner.chances(ARMS)

    def learn(self, arm: Arm, chances: Chances, losses: Mapping[Arm, float]) -> None:
        """See `Player`."""
        self._learner.learn(arm, chances[arm], losses[arm])


class Exp4Player(Player):
    """Likewise; an expert for each arm, and one that takes any."""

    published = "Clipper: as the root"
    ADVICE: ClassVar[Mapping[str, Chances]] = {arm: {arm: 1.0} for arm in ARMS} | {
        "any": dict.fromkeys(ARMS, 1 / len(ARMS))
    }

    def __init__(self) -> None:
        self._learner = Exp4()

    @staticmethod
    def bound(length: int) -> float:
        """See `Exp4`."""
        return 2 * sqrt(length * len(ARMS) * log(len(ARMS) + 1))

    def chances(self) -> Chances:
        """See `Player`."""
        return self._learner.chances(self.ADVICE)

    def learn(self, arm: Arm, chances: Chances, losses: Mapping[Arm, float]) -> None:
        """See `Player`."""
        self._learner.learn(self.ADVICE, arm, chances[arm], losses[arm])


class Ucb1Player(Player):
    """Likewise; draws nothing."""

    published = "UCBSpec: as the logarithm, if means stay"
    assumes = True

    def __init__(self) -> None:
        self._learner = Ucb1()

    @staticmethod
    def bound(length: int) -> float:
        """See `Ucb1`."""
        gaps = [mean - min(MEANS.values()) for mean in MEANS.values() if mean > min(MEANS.values())]
        return sum(8 * log(length) / gap + (1 + pi**2 / 3) * gap for gap in gaps)

    def chances(self) -> Chances:
        """See `Player`."""
        return {self._learner.best(ARMS): 1.0}

    def learn(self, arm: Arm, chances: Chances, losses: Mapping[Arm, float]) -> None:
        """See `Player`."""
        self._learner.learn(arm, 1 - losses[arm])


PLAYERS: Mapping[str, type[Player]] = {
    "hedge": HedgePlayer,
    "exp3": Exp3Player,
    "exp4": Exp4Player,
    "ucb1": Ucb1Player,
}


def regret(player: Player, adversary: Adversary, length: int, seed: int) -> float:
    """Of one run: the mean loss under the player's chances, above that of the arm that was best in hindsight."""
    world, own = Random(seed), Random(seed + 10_000)
    lost, totals = 0.0, dict.fromkeys(ARMS, 0.0)
    for _ in range(length):
        chances = player.chances()
        losses = adversary(max(chances, key=lambda arm: chances[arm]), world)
        lost += sum(chance * losses[arm] for arm, chance in chances.items())
        totals = {arm: total + losses[arm] for arm, total in totals.items()}
        player.learn(own.choices(list(chances), list(chances.values()))[0], chances, losses)
    return lost - min(totals.values())


def run(options: Options) -> dict[str, Any]:
    """Losses → algorithm → length → mean regret, its standard error, and the bound."""
    seeds = range(4 if options.quick else SEEDS)
    lengths = [length // QUICK if options.quick else length for length in LENGTHS]
    found = {
        kind: {
            name: {length: _summary(player, adversary, length, seeds) for length in lengths}
            for name, player in PLAYERS.items()
        }
        for kind, adversary in ADVERSARIES.items()
    }
    return {"losses": found, "seeds": len(seeds)}


def _summary(player: type[Player], adversary: Adversary, length: int, seeds: Sequence[int]) -> dict[str, float]:
    found = [regret(player(), adversary, length, seed) for seed in seeds]
    return {"mean": fmean(found), "error": stdev(found) / sqrt(len(found)), "bound": player.bound(length)}


def growth(regrets: Mapping[int, Mapping[str, float]]) -> float | None:
    """The power of the length by which regret grows between the two greatest: 1 as the length, ½ as its root, near 0 as
    its logarithm. None if it is not above zero at both."""
    first, last = sorted(regrets)[-2:]
    before, after = regrets[first]["mean"], regrets[last]["mean"]
    return log(after / before) / log(last / first) if min(before, after) > 0 else None


def table(result: dict[str, Any]) -> str:
    """Markdown: a line an algorithm and kind of losses."""
    lengths = sorted(result["losses"]["one best"]["hedge"])
    heads = ["losses", "algorithm", *(f"regret at {length} ± s.e." for length in lengths), "grows as length to the",
             f"bound at {lengths[-1]}", "published"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for kind, players in result["losses"].items():
        for name, of in players.items():
            power, holds = growth(of), kind == "one best" or not PLAYERS[name].assumes
            cells = [kind, name, *(f"{of[length]['mean']:.1f} ± {of[length]['error']:.1f}" for length in lengths),
                     "–" if power is None else f"{power:.2f}",
                     f"{of[lengths[-1]]['bound']:.0f}" if holds else "none", PLAYERS[name].published]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Means over {result['seeds']} draws. `hedge` is told every arm's loss, the others that of the arm "
              "they took. Policies over recorded texts, in seconds: [policies.md](policies.md)."]  # fmt: skip
    return "\n".join(lines) + "\n"
