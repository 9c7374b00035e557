"""Greedy decoding: a draft token stays where it equals the target's argmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specdec.verify.base import Rule, StepKey, Verdict, walk_matching
from specdec.verify.tree import DraftTree


class GreedyRule(Rule):
    """Exact match (Leviathan et al. 2023, §2.3 at temperature 0). Uses no random numbers."""

    name = "greedy"

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], None]:
        """The drafter's most probable tokens, best first."""
        if len(lanes) == 1:
            return [int(scores.argmax())], None
        return scores.topk(len(lanes)).indices.tolist(), None

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Walks down the tree along the target's argmax."""
        return walk_matching(tree, scores.argmax(-1).tolist())
