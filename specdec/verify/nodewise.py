"""Rules that settle one node after the other: test its candidates, step down to the accepted one, or emit and stop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from specdec.errors import NumericalError
from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.rational import ONE, ExactDraft, Law, Row, emit
from specdec.verify.tree import ROOT, DraftTree

Uniform = Callable[[int], float]
"""Candidate's place → its accept uniform."""


class NodewiseRule(Rule):
    """A rule given by what it does at one node, where the target says p and the candidates came from q."""

    @abstractmethod
    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """Accepts one candidate or none.

        Args:
            p: float32 [V].
            tokens: at least one candidate, in the order of their draw.
            q: float32 [V], or None for deterministic candidates.
            u: each candidate's uniform.

        Returns:
            The accepted candidate's place; or None and weights, float32 [V], to draw the next token from.
        """

    @abstractmethod
    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """Probability that each candidate is the accepted one, and the law of the next token if none is.

        Args:
            p: [V].
            tokens: the candidates.
            q: for each candidate the distribution it came from: the same for all, or its own one-hot one.
        """

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Walks down from the root; draws the bonus token below a leaf."""
        path: list[int] = []
        node = ROOT
        while True:
            position = key.anchor + len(path)
            weights = probabilities(scores[node + 1])
            children = tree.children(node)
            stream = Stream.BONUS
            if children:
                tokens = [tree.tokens[child] for child in children]
                q = None if tree.q is None else tree.q[children[0]]
                uniform = _uniforms(key, position, children)
                accepted, weights = self.select(weights, tokens, q, uniform)
                if accepted is not None:
                    node = children[accepted]
                    path.append(node)
                    continue
                stream = Stream.RESIDUAL
            u = key.random.uniform(stream, position, key.anchor)
            return Verdict(tuple(path), sample_from_weights(weights, u))

    def law(self, draft: ExactDraft) -> Law:
        """The same walk, every branch of it."""
        law: Law = {}

        def walk(node: int, path: tuple[int, ...], probability: Fraction) -> None:
            children, p = draft.tree.children(node), draft.p[node + 1]
            if not children:
                emit(law, path, probability, p)
                return
            tokens = [draft.tree.tokens[child] for child in children]
            accepted, rest = self.select_law(p, tokens, [draft.q_of(node, child) for child in children])
            for child, chance in zip(children, accepted, strict=True):
                if chance:
                    walk(child, (*path, child), probability * chance)
            if (missed := ONE - sum(accepted)) > 0:
                emit(law, path, probability * missed, rest)

        walk(ROOT, (), ONE)
        return law


def _uniforms(key: StepKey, position: int, children: Sequence[int]) -> Uniform:
    return lambda place: key.random.uniform(Stream.ACCEPT, position, key.anchor, children[place])


def draft_probability(x: int, q: Tensor | None) -> float:
    """q(x); 1 for a deterministic draft (q = None).

    Raises:
        NumericalError: if x has no mass under the q that it is said to be drawn from.
    """
    if q is None:
        return 1.0
    probability = float(q[x])
    if not probability > 0.0:
        raise NumericalError(
            f"Draft token {x} has q = {probability}, so it cannot have been drawn from q. "
            "A drafter must return the distribution it really drew from."
        )
    return probability


def residual(p: Tensor, x: int, q: Tensor | None) -> Tensor | None:
    """norm[(p - q)+], float32 [V]; q = None stands for the one-hot distribution of token x.

    None if no mass is left. In exact arithmetic that means p = q, where a rejection has probability zero: only rounding
    can have refused x, and the caller accepts it.
    """
    if q is None:
        rest = p.clone()
        rest[x] = 0.0
    else:
        rest = torch.clamp(p - q, min=0.0)
    mass = rest.sum()
    return rest / mass if mass > 0 else None
