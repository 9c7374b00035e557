"""Why a rule fell short, in words: one text, draw or residual that everyone can check by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from specdec.proof.exact import Setting, Step, Tokens, drafts
from specdec.verify.base import Rule
from specdec.verify.rational import ZERO, Row
from specdec.verify.tree import DraftTree

TextLaw = Mapping[Tokens, Fraction]


@dataclass(frozen=True)
class Residual:
    """What follows a step whose draft is refused at its first token.

    Args:
        found: probability of each next token.
        weights: target's probability of each token, less that with which it is accepted from the draft. A lossless rule
            draws in proportion to them, and none is negative.
    """

    found: Row
    weights: Row

    @property
    def wrong(self) -> bool:
        """Whether a lossless rule would draw otherwise."""
        return self.weights != self.found

    def __str__(self) -> str:
        for token, weight in enumerate(self.weights):
            if weight < 0:
                return f"token {token} is accepted from drafts more often than the target says it, by {shown(-weight)}"
        return (
            f"when the first drafted token is refused, the next one follows {_row(_normalized(self.found))}, "
            f"and has to follow {_row(_normalized(self.weights))}"
        )


def text_witness(rule: Rule, setting: Setting, found: TextLaw, expected: TextLaw, claim: Callable[[Row], Row]) -> str:
    """The shortest beginning of a text whose probability is wrong, and the residual if that is what is wrong.

    Args:
        rule: that gives texts by `found`.
        setting: where.
        found, expected: law of the whole text; they differ.
        claim: law that an emitted token should follow given the target's row.
    """
    begins, wanted = _beginnings(found), _beginnings(expected)
    wrong = [text for text in begins.keys() | wanted.keys() if begins.get(text, ZERO) != wanted.get(text, ZERO)]
    text = min(wrong, key=lambda one: (len(one), -abs(begins.get(one, ZERO) - wanted.get(one, ZERO)), one))
    chance, right = shown(begins.get(text, ZERO)), shown(wanted.get(text, ZERO))
    told = f"In the setting {setting.name!r} a text begins with {list(text)} with probability {chance}, not {right}"
    residual = residual_after(rule, setting, text[:-1], claim)
    return f"{told}. In the step after {list(text[:-1])}, {residual}." if residual.wrong else f"{told}."


def residual_after(rule: Rule, setting: Setting, prefix: Tokens, claim: Callable[[Row], Row]) -> Residual:
    """The residual of the step after `prefix`: the first token of each step has to follow the target alone."""
    accepted, refused = [ZERO] * len(setting.p(prefix)), [ZERO] * len(setting.p(prefix))
    for draft, drawn in drafts(rule, setting, prefix):
        for (path, token), probability in rule.law(draft).items():
            if path:
                accepted[draft.tree.tokens[path[0]]] += drawn * probability
            else:
                refused[token] += drawn * probability
    row = claim(setting.p(prefix))
    return Residual(tuple(refused), tuple(p - taken for p, taken in zip(row, accepted, strict=True)))


def steps_in_words(steps: Iterable[Step]) -> str:
    """What happened to the drafts of some steps."""
    told = [(list(tokens), [tokens[node] for node in path], token) for tokens, _, path, token in steps]
    return ", then ".join(
        f"of the draft {draft} accepts {kept} and goes on with {token}" for draft, kept, token in told
    )


def verdict_in_words(tree: DraftTree, verdict: tuple[Tokens, int]) -> str:
    """The same of one draft: the nodes that it accepts, and the next token."""
    path, token = verdict
    return steps_in_words([(tree.tokens, (), path, token)])


def outcome_witness(setting: str, outcome: str, found: float, stated: float) -> str:
    """An outcome that the code gives with another probability than the rule's own proof."""
    return (
        f"In the setting {setting!r} the code {outcome} with probability {found:.6g}; by the rule's own proof "
        f"it is {stated:.6g}."
    )


def evidence_in_words(setting: str, num_samples: int, weight: float) -> str:
    """Samples that the rule's own law cannot explain; `weight` is the natural logarithm of the evidence."""
    odds = "one of them cannot happen" if math.isinf(weight) else f"the evidence against it is e^{weight:.0f} to 1"
    return f"In the setting {setting!r} {num_samples} samples contradict the rule's own proof: {odds}."


def shown(value: Fraction) -> str:
    """A fraction, with its decimals unless it is short.

    >>> shown(Fraction(1, 4)), shown(Fraction(4001, 10007))
    ('1/4', '0.3998 (4001/10007)')
    """
    return str(value) if value.denominator < 1000 else f"{float(value):.4g} ({value})"


def _beginnings(law: TextLaw) -> dict[Tokens, Fraction]:
    """Probability with which a text begins with these tokens."""
    begins: dict[Tokens, Fraction] = {}
    for text, probability in law.items():
        for length in range(1, len(text) + 1):
            begins[text[:length]] = begins.get(text[:length], ZERO) + probability
    return begins


def _normalized(weights: Row) -> Row:
    total = sum(weights, ZERO)
    return tuple(weight / total for weight in weights) if total else weights


def _row(row: Iterable[Fraction]) -> str:
    return f"[{', '.join(map(shown, row))}]"
