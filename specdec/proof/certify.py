"""Is a rule lossless? Its exact law is compared with the target's, and what it does with what its law states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter

from specdec.errors import SpecdecError
from specdec.proof import cases
from specdec.proof.bounds import joint_prefix_bound, subset_bound
from specdec.proof.exact import (
    Setting,
    deviation,
    drafts,
    expected_accepted,
    joint_law,
    target_law,
)
from specdec.proof.faces import SampledResult, faces
from specdec.proof.witness import text_witness
from specdec.verify.base import Rule
from specdec.verify.rational import Row


@dataclass(frozen=True)
class LawResult:
    """One setting: the joint law of the emitted text, in fractions.

    Args:
        setting: its name.
        deviation: total variation distance from the target's law; 0 means equal.
        accepted: expected number of accepted draft tokens in the first step.
        bound: what no lossless rule can exceed, where it is known.
        witness: where the laws differ, in words; "" if they are equal.
    """

    setting: str
    deviation: Fraction
    accepted: Fraction
    bound: Fraction | None = None
    witness: str = ""

    @property
    def share(self) -> float | None:
        """Part of the bound that is reached."""
        return None if not self.bound else float(self.accepted / self.bound)


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

    def __str__(self) -> str:
        """One line: whether the rule is lossless, and whether its code does what was proved."""
        if self.failure:
            return f"{self.rule}: NOT EXAMINED: {self.failure}"
        verdict = "lossless"
        if not self.law_equal:
            word = "NOT lossless" if self.declared_lossless else "lossy, as it says"
            verdict = f"{word}, up to {float(self.largest_deviation):.3g} from the target's distribution"
        code = "the code matches the proof" if self.faces_agree else "the code does NOT match the proof"
        count = len(self.laws) + len(self.sampled)
        return f"{self.rule}: {verdict}; {code} ({count} settings, {self.seconds:.1f} s)"

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
    def witness(self) -> str:
        """Why it did not pass, in words: what can be checked by hand; "" if it passed."""
        if self.failure:
            return f"It cannot be examined: {self.failure}"
        laws = [law.witness for law in self.laws if self.declared_lossless]
        return next(filter(None, [*laws, *(result.witness for result in self.sampled)]), "")

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
            laws.append(compare_laws(rule, setting, claim or rule.emits))
        sampled.extend(faces(rule, quick))
    except (SpecdecError, ArithmeticError, ValueError, IndexError, KeyError, AssertionError, TypeError) as error:
        failure = f"{type(error).__name__}: {error}"
    return Certificate(rule.name, rule.lossless, tuple(laws), tuple(sampled), failure, perf_counter() - began)


def compare_laws(rule: Rule, setting: Setting, claim: Callable[[Row], Row]) -> LawResult:
    """The law of a whole text under the rule, against the target's."""
    found, expected = joint_law(rule, setting), target_law(setting, claim)
    distance = deviation(found, expected)
    witness = text_witness(rule, setting, found, expected, claim) if distance else ""
    return LawResult(setting.name, distance, expected_accepted(rule, setting), bound(rule, setting), witness)


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
        *cases.stopping(rule.trees),
        *cases.deterministic(quick, deterministic_trees),
        *([] if quick else cases.filtered(rule.trees, deterministic_trees)),
    ]


def bound(rule: Rule, setting: Setting) -> Fraction | None:
    """Most accepted tokens of any lossless rule: known for one node's candidates, and for one drafted chain, if nothing
    ends it early."""
    if setting.q is None or setting.stop is not None or not rule.lossless:
        return None
    p, q = setting.p(()), setting.q(())
    if setting.shape.depth <= 1:
        return subset_bound(rule.emits(p), rule.draw_law(q, len(setting.shape)))
    plain_draw = rule.draw_law(q, 1) == {(token,): mass for token, mass in enumerate(q) if mass}
    if setting.shape.is_chain and plain_draw and setting.eos is None:
        return joint_prefix_bound(setting.p, setting.q, min(setting.max_tokens - 1, len(setting.shape)))
    return None
