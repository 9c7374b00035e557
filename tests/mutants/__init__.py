"""Broken rules: mistakes that samplers have shipped with, or could. The certificate must reject all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor

from specdec.proof.cases import top_k
from specdec.randomness import RandomSource, Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.block import BlockRule
from specdec.verify.hsd import HierarchicalRule
from specdec.verify.multiround import MultiroundRule
from specdec.verify.nodewise import Uniform
from specdec.verify.rational import ONE, ExactDraft, Law, Row, emit, normalized
from specdec.verify.residuals import draft_probability, positive_part
from specdec.verify.rrs import RecursiveRejectionRule
from specdec.verify.token import TokenRule
from specdec.verify.traversal import TraversalRule
from specdec.verify.tree import ROOT, DraftTree
from specdec.verify.typical import TypicalRule


@dataclass(frozen=True)
class Renamed:
    """A source of random numbers that confuses their names."""

    source: RandomSource
    rename: Callable[[Stream, int, int, int], tuple[Stream, int, int, int]]

    def uniform(self, stream: Stream, position: int, anchor: int = 0, lane: int = 0) -> float:
        return self.source.uniform(*self.rename(stream, position, anchor, lane))


def renamed(key: StepKey, rename: Callable[[Stream, int, int, int], tuple[Stream, int, int, int]]) -> StepKey:
    return StepKey(cast(RandomSource, Renamed(key.random, rename)), key.anchor)


class ResidualSharesDraftNumbers(TokenRule):
    """1. The residual is drawn with the number that drew the draft."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        def rename(stream: Stream, position: int, anchor: int, lane: int) -> tuple[Stream, int, int, int]:
            if stream == Stream.RESIDUAL:
                return Stream.DRAFT, position, anchor, position - anchor
            return stream, position, anchor, lane

        return super().accept_one(tree, scores, renamed(key, rename))


class BlockStopsAtTheFirstFailure(BlockRule):
    """2. Block verification that keeps the run up to the first failed test."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        for length in range(1, len(tree) + 1):
            shorter = tree.truncated(length)
            if len(super().accept_one(shorter, scores[: length + 1], key).path) < length:
                return super().accept_one(shorter.truncated(length - 1), scores[:length], key)
        return super().accept_one(tree, scores, key)

    def law(self, draft: ExactDraft) -> Law:
        law: Law = {}
        reached = ONE
        for length in range(1, len(draft.tree) + 1):
            cut = ExactDraft(draft.tree.truncated(length), draft.p[: length + 1], draft.q and draft.q[: length + 1])
            whole = sum(mass for (path, _), mass in super().law(cut).items() if len(path) == length)
            emit(law, tuple(range(length - 1)), reached * (ONE - whole), draft.p[length - 1])
            reached *= whole
        emit(law, tuple(range(len(draft.tree))), reached, draft.p[len(draft.tree)])
        return law


class ResidualFromTarget(TokenRule):
    """3a. After a refusal the next token is drawn from p."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        accepted, _ = super().select(p, tokens, q, u)
        return accepted, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        return super().select_law(p, tokens, q)[0], p


class ResidualNotNormalized(MultiroundRule):
    """3b. The second candidate is tested against a residual whose mass is below one."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = positive_part(p, q, x)
            if not rest.sum() > 0:
                return place, p
            p = rest
        return None, p


class BonusFromTheWrongRow(RecursiveRejectionRule):
    """4. The token after a fully accepted draft is drawn from the row of the last draft token's parent."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        verdict = super().accept_one(tree, scores, key)
        if not verdict.path or tree.children(verdict.path[-1]):
            return verdict
        row = tree.parents[verdict.path[-1]] + 1
        u = key.random.uniform(Stream.BONUS, key.anchor + len(verdict.path), key.anchor)
        return Verdict(verdict.path, sample_from_weights(probabilities(scores[row]), u))

    def law(self, draft: ExactDraft) -> Law:
        rows = list(draft.p)
        for node in range(len(draft.tree)):
            if not draft.tree.children(node):
                rows[node + 1] = draft.p[draft.tree.parents[node] + 1]
        return super().law(ExactDraft(draft.tree, rows, draft.q))


class FilterAfterTheRatio(TokenRule):
    """5. Top-k belongs to the claim, but the test uses the ratio of the unfiltered p and q."""

    keep = staticmethod(top_k(2))

    def emits(self, p: Row) -> Row:
        return self.keep(p)

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        accepted, rest = super().select_law(p, tokens, q)
        kept = [mass if left else Fraction(0) for mass, left in zip(rest, self.keep(p), strict=True)]
        return accepted, normalized(kept) if any(kept) else self.keep(p)


class AnticipatingTrim(TokenRule):
    """6. A draft is cut off before its last token because of what that token is."""

    @staticmethod
    def trimmed(tree: DraftTree) -> DraftTree:
        return tree.truncated(tree.depth - 1) if tree.tokens and tree.tokens[-1] == 1 else tree

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        tree = self.trimmed(tree)
        return super().accept_one(tree, scores[: len(tree) + 1], key)

    def law(self, draft: ExactDraft) -> Law:
        tree = self.trimmed(draft.tree)
        rows = len(tree) + 1
        return super().law(ExactDraft(tree, draft.p[:rows], draft.q and draft.q[:rows]))


class TypicalCalledLossless(TypicalRule):
    """7. A lossy rule that says it is lossless."""

    lossless = True


class AcceptNumberReused(TokenRule):
    """8. One accept number for all positions."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        def rename(stream: Stream, position: int, anchor: int, lane: int) -> tuple[Stream, int, int, int]:
            return (stream, anchor, anchor, 0) if stream == Stream.ACCEPT else (stream, position, anchor, lane)

        return super().accept_one(tree, scores, renamed(key, rename))


class NumbersReusedInTheNextStep(BlockRule):
    """9. A position that was drafted and refused is judged with the same number when it is drafted anew."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        def rename(stream: Stream, position: int, anchor: int, lane: int) -> tuple[Stream, int, int, int]:
            return stream, position, 0, 0

        return super().accept_one(tree, scores, renamed(key, rename))


class RatioOffByFivePercent(TokenRule):
    """10. p(x)/q(x) · 1.05 in the tensor face only: a χ² test over a large vocabulary does not see it."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        return super().select(p, tokens, q, lambda place: u(place) / 1.05)


class CandidateStaysInQ(RecursiveRejectionRule):
    """11. Without replacement, but a refused candidate stays in q."""

    def after_law(self, q: Row, x: int) -> Row:
        return q


class RootMayRefuse(TraversalRule):
    """12. Traversal that keeps the root's weight at one instead of taking the residual's share on the way up."""

    def _visit_law(self, node: int, weight: Fraction, reached: Fraction, draft: ExactDraft, law: Law) -> Fraction:
        return super()._visit_law(node, ONE if node != ROOT else weight, reached, draft, law)


class WholeBranchByTheUncappedRatio(HierarchicalRule):
    """13. The code that HSD was published with: min(1, p(x_1 … x_γ)/q(x_1 … x_γ)) tests the whole branch."""

    trees = False

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        ratio = 1.0
        for node, x in enumerate(tree.tokens):
            p, q = probabilities(scores[node]), tree.q_below(node - 1)
            ratio *= float(p[x]) / draft_probability(x, q)
        last, position = len(tree) - 1, key.anchor + len(tree)
        if tree.tokens and key.random.uniform(Stream.ACCEPT, position - 1, key.anchor, last) < ratio:
            bonus = key.random.uniform(Stream.BONUS, position, key.anchor)
            return Verdict(tuple(range(len(tree))), sample_from_weights(probabilities(scores[-1]), bonus))
        return super().accept_one(tree, scores, key)

    def law(self, draft: ExactDraft) -> Law:
        whole, ratio = tuple(range(len(draft.tree))), ONE
        for node, x in enumerate(draft.tree.tokens):
            ratio *= draft.p[node][x] / draft.q_of(node - 1, node)[x]
        capped = {outcome: mass for outcome, mass in super().law(draft).items() if outcome[0] != whole}
        refused = sum(capped.values())
        passes = min(ONE, ratio) if whole else ONE
        law = {outcome: mass / refused * (ONE - passes) for outcome, mass in capped.items() if passes < 1}
        emit(law, whole, passes, draft.p[-1])
        return law


class CutAtTheFirstForbiddenToken(TokenRule):
    """14. A sampled draft is cut before its first token that the target cannot emit, and goes on with a draw from p."""

    @staticmethod
    def kept(tree: DraftTree, possible: Callable[[int, int], bool]) -> DraftTree:
        return tree.truncated(next((node for node, x in enumerate(tree.tokens) if not possible(node, x)), len(tree)))

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        tree = self.kept(tree, lambda row, x: bool(scores[row, x] > -torch.inf))
        return super().accept_one(tree, scores[: len(tree) + 1], key)

    def law(self, draft: ExactDraft) -> Law:
        tree = self.kept(draft.tree, lambda row, x: draft.p[row][x] > 0)
        return super().law(ExactDraft(tree, draft.p, draft.q))


class StopsBeforeKeeping(TokenRule):
    """15. Drafting stops before the token that was just drawn is kept: it is dropped where its own q is small."""

    @staticmethod
    def kept(tree: DraftTree, q: Callable[[int, int], float]) -> DraftTree:
        return tree.truncated(next((node for node, x in enumerate(tree.tokens) if q(node, x) < 0.4), len(tree)))

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        tree = self.kept(tree, lambda node, x: draft_probability(x, tree.q_below(node - 1)))
        return super().accept_one(tree, scores[: len(tree) + 1], key)

    def law(self, draft: ExactDraft) -> Law:
        tree = self.kept(draft.tree, lambda node, x: float(draft.q_of(node - 1, node)[x]))
        return super().law(ExactDraft(tree, draft.p[: len(tree) + 1], draft.q and draft.q[: len(tree) + 1]))


MUTANTS: list[Rule] = [
    ResidualSharesDraftNumbers(),
    BlockStopsAtTheFirstFailure(),
    ResidualFromTarget(),
    ResidualNotNormalized(),
    BonusFromTheWrongRow(),
    FilterAfterTheRatio(),
    AnticipatingTrim(),
    TypicalCalledLossless(),
    AcceptNumberReused(),
    NumbersReusedInTheNextStep(),
    RatioOffByFivePercent(),
    CandidateStaysInQ(),
    RootMayRefuse(),
    WholeBranchByTheUncappedRatio(),
    CutAtTheFirstForbiddenToken(),
    StopsBeforeKeeping(),
]
