"""Hedge, Exp3, Exp4 and UCB1: their proven bounds, on losses that were made against them, and single steps by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import exp, log, pi, sqrt
from random import Random
from statistics import mean, stdev

import pytest

from specdec.policy.learners import Arm, Exp3, Exp4, Hedge, Ucb1

ERRORS = 6.0
"""Standard errors by which a mean over seeds must stay below the bound of an expectation: of a normal law so much is
exceeded once in 1e9."""
SEEDS = range(24)
Losses = Callable[[int, Random], Sequence[float]]
"""Step and random numbers → losses of three arms."""


def constant_gap(step: int, random: Random) -> Sequence[float]:
    return [float(random.random() < rate) for rate in (0.6, 0.5, 0.3)]


def alternating(step: int, random: Random) -> Sequence[float]:
    """Whoever led the last step loses this one."""
    return (0.5, 0.0, 1.0) if step == 0 else (float(step % 2), float(1 - step % 2), 0.9)


def turning(step: int, random: Random) -> Sequence[float]:
    """The arm that was best for 600 steps is the worst afterwards."""
    return (0.1, 0.6, 0.5) if step < 600 else (1.0, 0.2, 0.5)


def noise(step: int, random: Random) -> Sequence[float]:
    return [random.random() for _ in range(3)]


ADVERSARIES = (constant_gap, alternating, turning, noise)
ARMS = ("a", "b", "c")


def drawn(chances: dict[Arm, float], random: Random) -> Arm:
    return random.choices(list(chances), list(chances.values()))[0]


def hedge_regret(steps: int, losses: Losses, arms: Sequence[Arm] = ARMS) -> float:
    learner, random, paid = Hedge(), Random(7), 0.0
    totals = dict.fromkeys(arms, 0.0)
    for step in range(steps):
        step_losses = dict(zip(arms, losses(step, random), strict=True))
        chances = learner.chances(arms)
        assert sum(chances.values()) == pytest.approx(1)
        paid += sum(chances[arm] * step_losses[arm] for arm in arms)
        learner.learn(step_losses)
        totals = {arm: totals[arm] + step_losses[arm] for arm in arms}
    return paid - min(totals.values())


def hedge_bound(steps: int, num_arms: int) -> float:
    return sqrt(steps * log(num_arms)) + 4 / 3 * log(num_arms) + 2


@pytest.mark.parametrize("losses", ADVERSARIES)
@pytest.mark.parametrize("steps", [1, 10, 200, 2000])
def test_hedge_stays_within_its_bound(steps: int, losses: Losses) -> None:
    assert hedge_regret(steps, losses) <= hedge_bound(steps, 3)


@pytest.mark.parametrize("num_arms", [2, 8, 30])
def test_hedge_stays_within_its_bound_when_its_favourite_always_loses(num_arms: int) -> None:
    learner, paid = Hedge(), 0.0
    arms = [str(index) for index in range(num_arms)]
    totals = dict.fromkeys(arms, 0.0)
    for steps in range(1, 600):
        chances = learner.chances(arms)
        favourite = max(arms, key=lambda arm: chances[arm])
        losses = {arm: float(arm == favourite) for arm in arms}
        paid += chances[favourite]
        learner.learn(losses)
        totals = {arm: totals[arm] + losses[arm] for arm in arms}
        assert paid - min(totals.values()) <= hedge_bound(steps, num_arms)


def test_hedge_stops_losing_where_one_arm_is_better() -> None:
    """The bound for any losses is 48 then."""
    assert hedge_regret(2000, constant_gap) - hedge_regret(500, constant_gap) < 1
    assert hedge_regret(2000, constant_gap) < 8


def test_one_arm_alone_has_no_regret() -> None:
    assert hedge_regret(50, lambda step, random: [0.7], ["a"]) == pytest.approx(0)
    assert Exp3().chances(["a"]) == {"a": 1.0}
    assert Exp4().chances({"x": {"a": 1.0}}) == {"a": 1.0}


def test_two_steps_of_hedge_by_hand() -> None:
    """Nothing lost by mixing yet: the leaders share. Then rate = ln 2 / gap, the gap that of an even mixture."""
    learner = Hedge()
    assert learner.chances(["a", "b"]) == {"a": 0.5, "b": 0.5}
    learner.learn({"a": 1.0, "b": 0.0})
    gap = 0.5  # the mean loss, less the best leader's
    rate = log(2) / gap
    assert learner.chances(["a", "b"])["a"] == pytest.approx(exp(-rate) / (1 + exp(-rate)))


def exp3_regret(seed: int, steps: int, losses: Losses) -> float:
    """Of the arms that were drawn, against the best; the losses are the same for every seed."""
    learner, draws, world = Exp3(), Random(seed), Random(7)
    paid, totals = 0.0, [0.0] * 3
    for step in range(steps):
        step_losses = losses(step, world)
        chances = learner.chances(ARMS)
        arm = drawn(chances, draws)
        loss = step_losses[ARMS.index(arm)]
        learner.learn(arm, chances[arm], loss)
        paid += loss
        totals = [total + one for total, one in zip(totals, step_losses, strict=True)]
    return paid - min(totals)


def below(regrets: Sequence[float], bound: float) -> bool:
    return mean(regrets) + ERRORS * stdev(regrets) / sqrt(len(regrets)) <= bound


@pytest.mark.parametrize("losses", ADVERSARIES)
def test_exp3_stays_within_its_bound_on_average(losses: Losses) -> None:
    regrets = [exp3_regret(seed, 1500, losses) for seed in SEEDS]
    assert below(regrets, 2 * sqrt(1500 * 3 * log(3)))


def test_what_exp3_believes_of_each_arm_is_right_on_average() -> None:
    """Exactly: over every path of draws, weighted by its chance, whatever was drawn before."""
    losses = [(0.3, 0.9), (1.0, 0.2), (0.5, 0.5), (0.0, 1.0)]
    believed = {"a": 0.0, "b": 0.0}
    for path in product("ab", repeat=len(losses)):
        learner, probability = Exp3(), 1.0
        for arm, step_losses in zip(path, losses, strict=True):
            chance = learner.chances("ab")[arm]
            learner.learn(arm, chance, step_losses["ab".index(arm)])
            probability *= chance
        for arm in believed:
            believed[arm] += probability * learner.losses.get(arm, 0.0)
    assert believed == pytest.approx({"a": 1.8, "b": 2.6})


def experts(step: int) -> dict[str, dict[Arm, float]]:
    """Three that keep to an arm, one that knows which arm is cheap in which step, one that guesses."""
    fixed = {arm: {arm: 1.0} for arm in ARMS}
    return {**fixed, "knows": {ARMS[step % 3]: 1.0}, "guesses": dict.fromkeys(ARMS, 1 / 3)}


def exp4_regret(seed: int, steps: int) -> float:
    """Against the expert that knows; no single arm is any good."""
    learner, draws = Exp4(), Random(seed)
    paid, least = 0.0, 0.0
    for step in range(steps):
        losses = {arm: 0.1 if ARMS[step % 3] == arm else 0.8 for arm in ARMS}
        advice = experts(step)
        chances = learner.chances(advice)
        arm = drawn(chances, draws)
        learner.learn(advice, arm, chances[arm], losses[arm])
        paid += losses[arm]
        least += 0.1
    return paid - least


def test_exp4_stays_within_its_bound_on_average_and_finds_the_expert_that_knows() -> None:
    steps = 1500
    assert below([exp4_regret(seed, steps) for seed in SEEDS], 2 * sqrt(steps * 3 * log(5)))
    random_arms = steps * (0.1 + 0.8 + 0.8) / 3 - steps * 0.1
    assert mean(exp4_regret(seed, steps) for seed in SEEDS) < random_arms / 2


def test_exp4_over_fixed_arms_is_exp3() -> None:
    one, other, draws = Exp3(), Exp4(), Random(3)
    for _ in range(40):
        advice = {arm: {arm: 1.0} for arm in ARMS}
        assert other.chances(advice) == pytest.approx(one.chances(ARMS))
        arm = drawn(one.chances(ARMS), draws)
        chance = one.chances(ARMS)[arm]
        one.learn(arm, chance, 0.4)
        other.learn(advice, arm, chance, 0.4)


RATES = {"a": 0.2, "b": 0.5, "c": 0.8}


def ucb_regret(seed: int, steps: int) -> float:
    learner, random, regret = Ucb1(), Random(seed), 0.0
    for _ in range(steps):
        arm = learner.best(ARMS)
        learner.learn(arm, float(random.random() < RATES[arm]))
        regret += RATES["c"] - RATES[arm]
    return regret


def test_ucb_stays_within_its_bound_on_average() -> None:
    steps, gaps = 2000, (0.6, 0.3)
    bound = sum(8 * log(steps) / gap for gap in gaps) + (1 + pi**2 / 3) * sum(gaps)
    assert below([ucb_regret(seed, steps) for seed in SEEDS], bound)


def test_ucb_gives_an_unlucky_arm_another_chance() -> None:
    """Its bonus is of its own count: one of the total would leave out what failed at first."""
    learner = Ucb1()
    learner.learn("good", 0.0)
    learner.learn("poor", 1.0)
    taken = []
    for _ in range(60):
        taken.append(learner.best(["poor", "good"]))
        learner.learn(taken[-1], 1.0 if taken[-1] == "good" else 0.1)
    assert taken.count("good") > 40


def test_a_choice_of_ucb_by_hand() -> None:
    learner = Ucb1({"a": 8, "b": 2}, {"a": 0.9, "b": 0.0})
    # sqrt(2 ln 10 / 8) = 0.7587, sqrt(2 ln 10 / 2) = 1.5174
    assert learner.best(["a", "b"]) == "a"
    assert Ucb1({"a": 8, "b": 2}, {"a": 0.75, "b": 0.0}).best(["a", "b"]) == "b"
    assert learner.best(["a", "b", "never taken"]) == "never taken"


def test_an_arm_that_is_left_out_of_a_step_keeps_what_is_known_of_it() -> None:
    learner = Exp3()
    for _ in range(50):
        learner.learn("bad", 0.5, 1.0)
        learner.learn("good", 0.5, 0.1)
    assert set(learner.chances(["bad", "other"])) == {"bad", "other"}
    assert learner.chances(["bad", "good"])["bad"] < 0.05


@pytest.mark.parametrize("learner", [Exp3(), Hedge()])
def test_losses_of_a_million_steps_are_still_told_apart(learner: Exp3 | Hedge) -> None:
    learner.losses = {"a": 1e6, "b": 1e6 + 9000, "c": 2e6}
    if isinstance(learner, Hedge):
        learner.gap = 700.0
    else:
        learner.steps = 10**6
    chances = learner.chances(ARMS)
    assert 1 > chances["a"] > chances["b"] >= chances["c"] >= 0 or chances["a"] == 1
    assert sum(chances.values()) == pytest.approx(1)
