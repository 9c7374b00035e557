"""Typical acceptance (Medusa: Cai et al. 2024). Lossy: for studies that compare."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.checks import number, take
from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import StepKey, Verdict
from specdec.verify.draws import IndependentDraws
from specdec.verify.rational import ONE, ExactDraft, Law, emit
from specdec.verify.tree import ROOT, DraftTree


class TypicalRule(IndependentDraws):
    """Keeps the longest branch of tokens with p(x) > min(ε, δ·exp(-H(p))); the next token follows p.

    What it emits does not follow the target: likely tokens that were drafted come out too often.

    Args:
        epsilon: ε, probability that always suffices.
        delta: δ, share of the typical probability exp(-H) that suffices where the target is undecided.

    Raises:
        ConfigError: if ε is no probability above 0, or δ no finite number above 0.
    """

    name = "typical"
    lossless = False

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3) -> None:
        self.epsilon: float = take("epsilon", epsilon, number(lambda value: 0 < value <= 1, "a probability in (0, 1]"))
        self.delta: float = take("delta", delta, number(lambda value: 0 < value < math.inf, "a finite number > 0"))

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """The deepest node all of whose ancestors are typical, the first drawn of equally deep ones."""
        rows = [probabilities(row) for row in scores]
        path = self._longest(tree, rows)
        position = key.anchor + len(path)
        last = path[-1] if path else ROOT
        u = key.random.uniform(Stream.BONUS, position, key.anchor)
        return Verdict(path, sample_from_weights(rows[last + 1], u))

    def law(self, draft: ExactDraft) -> Law:
        """One path; its next token follows p."""
        law: Law = {}
        path = self._longest(draft.tree, [torch.tensor([float(mass) for mass in row]) for row in draft.p])
        emit(law, path, ONE, draft.p[(path[-1] if path else ROOT) + 1])
        return law

    def _longest(self, tree: DraftTree, rows: Sequence[Tensor]) -> tuple[int, ...]:
        kept: dict[int, tuple[int, ...]] = {ROOT: ()}
        for node, (x, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            if parent in kept and float(rows[parent + 1][x]) > self._threshold(rows[parent + 1]):
                kept[node] = (*kept[parent], node)
        return max(kept.values(), key=len)

    def _threshold(self, p: Tensor) -> float:
        entropy = float(torch.special.entr(p).sum())
        return min(self.epsilon, self.delta * math.exp(-entropy))
