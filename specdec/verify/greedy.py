"""Greedy decoding: a draft token stays where it equals the target's argmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specdec.kernels.rows import argmax
from specdec.verify.base import Rule, StepKey, Verdict, walk_matching
from specdec.verify.rational import ONE, DrawLaw, ExactDraft, Law, Row, one_hot
from specdec.verify.tree import DraftTree


class GreedyRule(Rule):
    """Exact match (Leviathan et al. 2023, §2.3 at temperature 0). Uses no random numbers."""

    name = kernel = "greedy"
    draft_invariant = True
    by_argmax = True

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], None]:
        """The drafter's most probable tokens, best first; of equal ones the first in the vocabulary first."""
        if len(lanes) == 1:
            return [argmax(scores)[0]], None
        count = min(len(lanes), len(scores))
        # topk takes equal ones in any order: what is no worse than the last it takes is few, and is sorted.
        good = (scores >= scores.topk(count).values[-1]).nonzero().squeeze(-1)
        order = scores[good].sort(descending=True, stable=True).indices[:count]
        return good[order].tolist(), None

    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        """All mass on the ranking by probability."""
        ranked = sorted(range(len(q)), key=lambda token: -q[token])
        return {tuple(ranked[:num_candidates]): ONE}

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Walks down the tree along the target's argmax."""
        return walk_matching(tree, lambda row, depth: argmax(scores[row])[0])

    def accept_argmax(self, tree: DraftTree, tokens: Sequence[int]) -> Verdict:
        """The same, where the argmax is known."""
        return walk_matching(tree, lambda row, depth: tokens[row])

    def law(self, draft: ExactDraft) -> Law:
        """One verdict."""
        verdict = walk_matching(draft.tree, lambda row, depth: _most_probable(draft.p[row]))
        return {(verdict.path, verdict.next_token): ONE}

    def emits(self, p: Row) -> Row:
        """The most probable token; of equal ones the first."""
        return one_hot(_most_probable(p), len(p))


def _most_probable(p: Row) -> int:
    return max(range(len(p)), key=lambda token: p[token])
