"""Does a rule do what its law states? Its tensor face is run for every random number that makes a difference."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypeVar

from specdec.proof import cases
from specdec.proof.evidence import Evidence
from specdec.proof.exact import Setting, Step, drafts, trajectories
from specdec.proof.explore import NeedsNoise, explore
from specdec.proof.simulate import simulate, verdict_on
from specdec.proof.witness import evidence_in_words, outcome_witness, steps_in_words, verdict_in_words
from specdec.randomness import RandomSource
from specdec.verify.base import Rule
from specdec.verify.rational import Law
from specdec.verify.tree import ROOT, DraftTree, TreeShape

T = TypeVar("T", bound=Hashable)
SAMPLED_TOLERANCE = 5e-6
"""Largest difference of an outcome's probability: float32 probabilities are off by 6e-8 each, the explorer's borders by
4e-7, and an outcome depends on at most a dozen of either."""
GIVEN = 3
"""Drafts of a setting whose verdicts are explored, in the quick certificate."""
ERROR_RATE = 1e-6
"""Of the sequential test, where the explorer cannot be used."""


@dataclass(frozen=True)
class SampledResult:
    """One setting: what the tensor face does, against the stated law.

    Args:
        setting: its name.
        method: "explored" (every combination of uniforms) or "sampled" (sequential test).
        deviation: largest difference of an outcome's probability, if explored; log e-value, if sampled.
        agrees: whether that is within its bound.
        witness: an outcome whose probability is wrong, in words; "" if they agree.
    """

    setting: str
    method: str
    deviation: float
    agrees: bool
    witness: str = ""


def faces(rule: Rule, quick: bool) -> Iterator[SampledResult]:
    """What the rule does against what it states, setting by setting."""
    num_samples = 2000 if quick else 6000
    for setting, num_steps in sampled_settings(rule, quick):
        yield examine(rule, setting, num_steps, num_samples)
    for setting in cases.many_candidates() if rule.trees else []:
        yield examine_verdicts(rule, setting, GIVEN if quick else 4 * GIVEN, num_samples)


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
        return _sample(rule, setting, num_steps, num_samples, stated)
    return _compared(setting, found, stated, steps_in_words)


def examine_verdicts(rule: Rule, setting: Setting, num_drafts: int, num_samples: int) -> SampledResult:
    """The same for the first step of some drafts, each taken as drawn: a node with many candidates has more ways to be
    drawn than can be explored. Rules that need noise are sampled, with all drafts."""
    laws = [(draft.tree, rule.law(draft)) for draft, _ in drafts(rule, setting, ())]
    results: list[SampledResult] = []
    for tree, law in sorted(laws, key=lambda pair: doubt(*pair), reverse=True)[:num_drafts]:
        try:
            found = explore(partial(verdict_on, rule, setting, tree))
        except NeedsNoise:
            return _sample(rule, setting, 1, num_samples, trajectories(rule, setting, 1))
        results.append(_compared(setting, found, law, partial(verdict_in_words, tree)))
    return max(results, key=lambda result: result.deviation)


def doubt(tree: DraftTree, law: Law) -> Fraction:
    """How open it is what becomes of the last candidate: the less probable of its acceptance, and of no acceptance
    at its node."""
    last = len(tree) - 1
    siblings = set(tree.children(tree.parents[last]))
    accepted = sum((mass for (path, _), mass in law.items() if last in path), Fraction(0))
    return min(accepted, sum((mass for (path, _), mass in law.items() if not siblings & set(path)), Fraction(0)))


def _compared(
    setting: Setting, found: Mapping[T, float], stated: Mapping[T, Fraction], words: Callable[[T], str]
) -> SampledResult:
    off = {key: abs(found.get(key, 0.0) - float(stated.get(key, 0))) for key in found.keys() | stated.keys()}
    worst = max(off, key=lambda key: off[key])
    if off[worst] <= SAMPLED_TOLERANCE:
        return SampledResult(setting.name, "explored", off[worst], True)
    witness = outcome_witness(setting.name, words(worst), found.get(worst, 0.0), float(stated.get(worst, 0)))
    return SampledResult(setting.name, "explored", off[worst], False, witness)


def _sample(
    rule: Rule, setting: Setting, num_steps: int, num_samples: int, stated: Mapping[tuple[Step, ...], Fraction]
) -> SampledResult:
    seen: dict[object, float] = {}
    for steps, probability in stated.items():
        seen[_seen(steps)] = seen.get(_seen(steps), 0.0) + float(probability)
    evidence = Evidence(seen)
    for seed in range(num_samples):
        evidence.add(_seen(simulate(rule, setting, RandomSource(seed), num_steps)))
    weight, agrees = evidence.log_e_value(), not evidence.rejects(ERROR_RATE)
    witness = "" if agrees else evidence_in_words(setting.name, num_samples, weight)
    return SampledResult(setting.name, "sampled", weight, agrees, witness)


def _seen(steps: tuple[Step, ...]) -> tuple[tuple[object, ...], ...]:
    """Without the drafted tokens off the accepted path: those share their noise with the ones on it, so that a law
    which draws every node on its own does not hold for them, nor do they bear on what is emitted."""
    return tuple(step[1:] for step in steps)
