"""Texts of a tiny target whose law is known in fractions, made by the engine's own parts, step by step.

A limit on what may follow (a constraint, a least length, allowed tokens) changes p, and q of a drafter that knows of
it: both are restricted and normalised. Every rule must give that law, for every kind of draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from specdec import DraftRequest, DraftTree, SamplingParams, StepKey
from specdec.proof import cases
from specdec.proof.exact import Setting, joint_law
from specdec.proof.explore import explore
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import LogitsTransform
from specdec.verify.base import Rule
from specdec.verify.tree import ROOT, TreeShape

Text = tuple[int, ...]
Law = Callable[[Text], Sequence[Fraction]]
SHAPES = {"chain": TreeShape.chain(2), "tree": TreeShape((ROOT, ROOT, 0, 1))}
KINDS = ("aware", "unaware", "deterministic")
"""Of drafts: drawn through the request's transform, drawn without it, or fixed."""
TOLERANCE = 2e-5
"""As specdec.proof.certify: borders are found to 4e-7 each, and a text depends on a few dozen of them."""
CASES = [
    (name, kind, shape)
    for name in RULES.names()
    for kind in KINDS
    for shape in SHAPES
    if RULES.get(name).lossless
    and name != "greedy"
    and (
        shape == "chain" or (RULES.get(name).trees and (kind != "deterministic" or RULES.get(name).deterministic_trees))
    )
]
"""Every lossless rule, with every kind and shape of draft that it can judge."""


@dataclass(frozen=True)
class Limited:
    """A target over a few tokens, and what may follow each text.

    Args:
        size: V.
        params: at temperature 1, with the limit.
        ends: tokens that end a text.
        may_follow: by looking at the text, the tokens that may come next, at least one; of any kind for a text that
            cannot be, or that has ended.
        fixed: the deterministic draft of each shape.
        length: most tokens of a text.
    """

    size: int
    params: SamplingParams
    ends: frozenset[int]
    may_follow: Callable[[Text], set[int]]
    fixed: dict[str, DraftTree]
    length: int = 3

    def p(self, text: Text) -> tuple[Fraction, ...]:
        """The target's law, limited."""
        return self.limited(target(self.size), text)

    def q(self, text: Text) -> Sequence[Fraction]:
        """The drafter's, not limited."""
        return draft(self.size)(text)

    def limited(self, law: Law, text: Text) -> tuple[Fraction, ...]:
        """What may follow, normalised."""
        allowed = self.may_follow(text)
        total = sum(law(text)[token] for token in allowed)
        return tuple(mass / total if token in allowed else Fraction(0) for token, mass in enumerate(law(text)))

    def ended(self, text: Text, length: int) -> bool:
        """Whether nothing follows the text."""
        return len(text) >= length or bool(self.ends.intersection(text))

    def law(self, length: int) -> dict[Text, Fraction]:
        """Every text and its probability."""
        law: dict[Text, Fraction] = {}

        def extend(text: Text, mass: Fraction) -> None:
            if self.ended(text, length):
                law[text] = mass
                return
            for token in self.may_follow(text):
                extend((*text, token), mass * self.p(text)[token])

        extend((), Fraction(1))
        return law

    def setting(self, kind: str, shape: str) -> Setting:
        """For a rule's own law. Fixed drafts are pruned of what the limit forbids from the start."""
        end = next(iter(self.ends))
        if kind == "deterministic":
            dropped = [
                n for n, t in enumerate(self.fixed[shape].tokens) if t not in self.may_follow(self._above(shape, n))
            ]
            tree = self.fixed[shape].pruned(dropped)
            return Setting("fixed", self.p, propose=lambda text: tree, max_tokens=self.length, eos=end)
        q = self.q if kind == "unaware" else lambda text: self.limited(self.q, text)
        return Setting("drawn", self.p, q, SHAPES[shape], max_tokens=self.length, eos=end)

    def _above(self, shape: str, node: int) -> Text:
        return self.fixed[shape].prefix(self.fixed[shape].parents[node])

    def text(self, rule: Rule, kind: str, shape: str, random: RandomSource, length: int) -> Text:
        """One text, step by step as the engine takes them."""
        transform, text = LogitsTransform(self.params, [], self.size, ends=self.ends), ()
        while not self.ended(text, length):
            key, depth = StepKey(random, anchor=3 + len(text)), length - len(text) - 1
            request = DraftRequest(0, text, depth, transform, rule, key)
            if kind == "deterministic":
                tree = self.fixed[shape].truncated(depth)
                tree = tree.pruned(transform.forbidden(tree.tokens, tree.parents))
            else:
                tree = self._drawn(request, text, SHAPES[shape].truncated(depth), kind == "aware")
            paths = [tree.prefix(node) for node in range(ROOT, len(tree))]
            logits = torch.stack([row(target(self.size), (*text, *path)) for path in paths])
            scores = transform.scores(logits, paths, [-1, *(parent + 1 for parent in tree.parents)])
            [verdict] = rule.accept([tree], [scores], [key])
            for token in verdict.tokens(tree):
                text = (*text, token)
                transform.append([token])
                if self.ended(text, length):
                    break
        return text

    def _drawn(self, request: DraftRequest, text: Text, shape: TreeShape, aware: bool) -> DraftTree:
        """Drawn from q level by level; unaware of the limit it draws what may not follow, too."""
        tokens, parents, q, place = list[int](), list[int](), list[Tensor](), {ROOT: ROOT}
        for at in range(ROOT, len(shape)):
            children = shape.children(at)
            if at not in place or not children:
                continue
            prefix = DraftTree(tuple(tokens), tuple(parents)).prefix(place[at])
            lanes = range(len(tokens), len(tokens) + len(children))
            draw = request.draw if aware else lambda r, p, n: request.rule.draw(r, request.key, len(p), n)
            drawn, mass = draw(row(draft(self.size), (*text, *prefix)), prefix, lanes)
            place |= dict(zip(children, lanes[: len(drawn)], strict=False))
            parents += [place[at]] * len(drawn)
            tokens += drawn
            if mass is not None and drawn:
                q.append(mass)
        return DraftTree(tuple(tokens), tuple(parents), torch.stack(q) if q else None)


def check_law(scene: Limited, name: str, kind: str, shape: str) -> None:
    """A rule's own law of the scene's texts is theirs, exactly."""
    assert joint_law(RULES.create(name), scene.setting(kind, shape)) == scene.law(scene.length)


def check_parts(scene: Limited, name: str, kind: str, shape: str) -> None:
    """So is that of the engine's parts, run for all their random numbers."""
    length = scene.length if shape == "chain" or kind == "deterministic" else 2  # the explorer's work is exponential
    rule: Rule = RULES.create(name)
    found = explore(lambda random: scene.text(rule, kind, shape, random, length))
    law = scene.law(length)
    assert sum(law.values()) == 1
    assert found.keys() <= law.keys()
    assert max(abs(found.get(text, 0.0) - float(mass)) for text, mass in law.items()) < TOLERANCE


@cache
def target(size: int) -> Law:
    """p, not limited, over so many tokens."""
    return cases.table(51, size)


@cache
def draft(size: int) -> Law:
    """q, not limited."""
    return cases.table(52, size)


def row(law: Law, text: Text) -> Tensor:
    """Its log-probabilities after the text, float32 [V], to be written to."""
    return _row(law, text).clone()


@cache
def _row(law: Law, text: Text) -> Tensor:
    return torch.tensor([float(mass) for mass in law(text)], dtype=torch.float64).log().float()
