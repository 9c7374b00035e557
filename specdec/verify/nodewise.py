"""Rules that settle one node after the other: test its candidates, step down to the accepted one, or emit and stop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction

from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, Row, emit, exact_positive_part, normalized
from specdec.verify.residuals import draft_probability, residual
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
                uniform = _uniforms(key, position, children)
                accepted, weights = self.select(weights, tokens, tree.q_below(node), uniform)
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


class SuccessiveRejection(NodewiseRule):
    """Tests the candidates in turn, each against what the ones before have left of p: P ← norm[(P - q)+]."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """One test per candidate, until one is accepted."""
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = residual(p, x, q)
            if rest is None:
                return place, p
            p = rest
            if q is not None and place + 1 < len(tokens):
                q = self.after(q, x)
        return None, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """As `select`, with the chance of coming so far."""
        accepted, reached = [], ONE
        for place, (x, q_x) in enumerate(zip(tokens, q, strict=True)):
            for earlier in tokens[:place]:
                q_x = self.after_law(q_x, earlier)
            chance = min(ONE, p[x] / q_x[x])
            accepted.append(reached * chance)
            reached *= ONE - chance
            if not reached:
                break
            p = normalized(exact_positive_part(p, q_x))
        return [*accepted, *[ZERO] * (len(tokens) - len(accepted))], p

    def after(self, q: Tensor, x: int) -> Tensor:
        """What the candidate after x was drawn from: q again, float32 [V]."""
        return q

    def after_law(self, q: Row, x: int) -> Row:
        """The same, exactly."""
        return q
