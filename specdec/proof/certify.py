"""Is a rule lossless? Its exact law is compared with the target's, and what it does with what its law states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter

from specdec.errors import SpecdecError
from specdec.proof import cases
from specdec.proof.bounds import joint_prefix_bound, subset_bound
from specdec.proof.evidence import Evidence
from specdec.proof.exact import (
    Setting,
    Step,
    deviation,
    drafts,
    expected_accepted,
    joint_law,
    target_law,
    trajectories,
)
from specdec.proof.explore import NeedsNoise, explore
from specdec.proof.simulate import simulate
from specdec.randomness import RandomSource
from specdec.verify.base import Rule
from specdec.verify.rational import Row
from specdec.verify.tree import ROOT, DraftTree, TreeShape

SAMPLED_TOLERANCE = 5e-6
"""Largest difference of an outcome's probability: float32 probabilities are off by 6e-8 each, the explorer's borders by
4e-7, and an outcome depends on at most a dozen of either."""
ERROR_RATE = 1e-6
"""Of the sequential test, where the explorer cannot be used."""


@dataclass(frozen=True)
class LawResult:
    """One setting: the joint law of the emitted text, in fractions.

    Args:
        setting: its name.
        deviation: total variation distance from the target's law; 0 means equal.
        accepted: expected number of accepted draft tokens in the first step.
        bound: what no lossless rule can exceed, where it is known.
    """

    setting: str
    deviation: Fraction
    accepted: Fraction
    bound: Fraction | None = None

    @property
    def share(self) -> float | None:
        """Part of the bound that is reached."""
        return None if not self.bound else float(self.accepted / self.bound)


@dataclass(frozen=True)
class SampledResult:
    """One setting: what the tensor face does, against the stated law.

    Args:
        setting: its name.
        method: "explored" (every combination of uniforms) or "sampled" (sequential test).
        deviation: largest difference of an outcome's probability, if explored; log e-value, if sampled.
        agrees: whether that is within its bound.
    """

    setting: str
    method: str
    deviation: float
    agrees: bool


@dataclass(frozen=True)
class Certificate:
    """What was found out about one rule.

    Args:
        rule: its name.
        declared_lossless: what it says of itself.
        laws, sampled: one entry per setting.
        failure: an error that ended the examination, or "".
        seconds: how long it took.
    """

    rule: str
    declared_lossless: bool
    laws: tuple[LawResult, ...]
    sampled: tuple[SampledResult, ...]
    failure: str
    seconds: float

    @property
    def law_equal(self) -> bool:
        """Whether the law equals the target's in every setting."""
        return not self.failure and all(result.deviation == 0 for result in self.laws)

    @property
    def faces_agree(self) -> bool:
        """Whether the tensor face does what the law states."""
        return not self.failure and all(result.agrees for result in self.sampled)

    @property
    def largest_deviation(self) -> Fraction:
        """Of the exact laws."""
        return max((result.deviation for result in self.laws), default=Fraction(0))

    @property
    def passed(self) -> bool:
        """A lossless rule must be lossless, a lossy one must say so, and both must do what they state."""
        return self.faces_agree and (self.law_equal or not self.declared_lossless)


def certify(
    rule: Rule,
    quick: bool = False,
    claim: Callable[[Row], Row] | None = None,
    settings: Iterable[Setting] | None = None,
) -> Certificate:
    """Examines a rule, ours or one from another package.

    Args:
        rule: the rule.
        quick: leave the larger settings out.
        claim: law that an emitted token should follow given the target's row; `rule.emits` if left out.
        settings: where to examine it; all fixed settings that fit the rule if left out.
    """
    began = perf_counter()
    chosen = list(settings) if settings is not None else settings_for(rule, quick)
    laws: list[LawResult] = []
    sampled: list[SampledResult] = []
    failure = ""
    try:
        for setting in chosen:
            check_laws(rule, setting)
            expected = target_law(setting, claim or rule.emits)
            distance = deviation(joint_law(rule, setting), expected)
            laws.append(LawResult(setting.name, distance, expected_accepted(rule, setting), bound(rule, setting)))
        for setting, num_steps in sampled_settings(rule, quick):
            sampled.append(examine(rule, setting, num_steps, 2000 if quick else 6000))
    except (SpecdecError, ArithmeticError, ValueError, IndexError, KeyError, AssertionError, TypeError) as error:
        failure = f"{type(error).__name__}: {error}"
    return Certificate(rule.name, rule.lossless, tuple(laws), tuple(sampled), failure, perf_counter() - began)


def check_laws(rule: Rule, setting: Setting) -> None:
    """Laws that are none must not pass: what is missing in one draft, or below zero, may cancel out over all of them.

    Raises:
        SpecdecError: if the law of a draft of the first step has a negative probability or does not sum to one.
    """
    for draft, _ in drafts(rule, setting, ()):
        masses = rule.law(draft).values()
        if sum(masses) != 1 or any(mass < 0 for mass in masses):
            raise SpecdecError(f"The law for the draft {draft.tree.tokens} is none: {[str(mass) for mass in masses]}.")


def settings_for(rule: Rule, quick: bool = False) -> list[Setting]:
    """The fixed settings in which the rule is defined."""
    deterministic_trees = rule.trees and rule.deterministic_trees
    return [
        *cases.chains(quick),
        *(cases.trees(quick) if rule.trees else []),
        *cases.deterministic(quick, deterministic_trees),
        *([] if quick else cases.filtered(rule.trees, deterministic_trees)),
    ]


def sampled_settings(rule: Rule, quick: bool) -> list[tuple[Setting, int]]:
    """Small settings, and how many steps are followed: the second step must not reuse the first one's numbers."""
    chosen = [
        (Setting("chain", cases.table(31, 3), cases.table(32, 3), cases.CHAIN_2, max_tokens=4), 1),
        (Setting("two steps", cases.table(33, 2), cases.table(34, 2), cases.CHAIN_2, max_tokens=3), 2),
        (Setting("deterministic", cases.table(35, 3), propose=lambda _: DraftTree.chain([1, 0]), max_tokens=4), 1),
        (Setting("no overlap", cases.constant(1, 2, 0), cases.constant(0, 0, 1), cases.CHAIN_2, max_tokens=4), 1),
        (Setting("p = q", cases.table(31, 2), cases.table(31, 2), cases.CHAIN_2, max_tokens=4), 1),
    ]
    if not quick:
        p, q = cases.table(36, 2), cases.table(37, 2)
        chosen.append((Setting("two longer steps", p, q, cases.CHAIN_2, max_tokens=4), 2))
    return chosen + (_sampled_trees(rule, quick) if rule.trees else [])


def _sampled_trees(rule: Rule, quick: bool) -> list[tuple[Setting, int]]:
    p, q, fork = cases.table(38, 3), cases.table(39, 3), cases.FORK if quick else cases.TWO_CHAINS
    chosen = [
        (Setting("tree", p, q, fork, max_tokens=4), 1),
        (
            Setting(
                "fork below a token", cases.table(33, 2), cases.table(34, 2), TreeShape((ROOT, 0, 0)), max_tokens=3
            ),
            1,
        ),
    ]
    if all(len(set(tokens)) == len(tokens) for tokens in rule.draw_law(q(()), 2)):
        # Without replacement a third draw depends on both before it, and there are few enough ways to draw.
        three, few = TreeShape.fork(3, 1), cases.constant(1, 2, 0)
        chosen.append((Setting("three candidates", p, q, three, max_tokens=2), 1))
        chosen.append((Setting("more candidates than support", p, few, three, max_tokens=2), 1))
    return chosen


def examine(rule: Rule, setting: Setting, num_steps: int, num_samples: int) -> SampledResult:
    """Compares what the rule does with what it states."""
    stated = trajectories(rule, setting, num_steps)
    try:
        found = explore(lambda random: simulate(rule, setting, random, num_steps))
    except NeedsNoise:
        seen: dict[object, float] = {}
        for steps, probability in stated.items():
            seen[_seen(steps)] = seen.get(_seen(steps), 0.0) + float(probability)
        evidence = Evidence(seen)
        for seed in range(num_samples):
            evidence.add(_seen(simulate(rule, setting, RandomSource(seed), num_steps)))
        return SampledResult(setting.name, "sampled", evidence.log_e_value(), not evidence.rejects(ERROR_RATE))
    largest = max(abs(found.get(key, 0.0) - float(stated.get(key, 0))) for key in found.keys() | stated.keys())
    return SampledResult(setting.name, "explored", largest, largest <= SAMPLED_TOLERANCE)


def _seen(steps: tuple[Step, ...]) -> tuple[tuple[object, ...], ...]:
    """Without the drafted tokens off the accepted path: those share their noise with the ones on it, so that a law
    which draws every node on its own does not hold for them, nor do they bear on what is emitted."""
    return tuple(step[1:] for step in steps)


def bound(rule: Rule, setting: Setting) -> Fraction | None:
    """Most accepted tokens of any lossless rule: known for one node's candidates, and for one drafted chain."""
    if setting.q is None or not rule.lossless:
        return None
    p, q = setting.p(()), setting.q(())
    if setting.shape.depth <= 1:
        return subset_bound(rule.emits(p), rule.draw_law(q, len(setting.shape)))
    plain_draw = rule.draw_law(q, 1) == {(token,): mass for token, mass in enumerate(q) if mass}
    if setting.shape.is_chain and plain_draw and setting.eos is None:
        return joint_prefix_bound(setting.p, setting.q, min(setting.max_tokens - 1, len(setting.shape)))
    return None
