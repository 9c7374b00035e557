"""How far draft and target are apart, and whether a drafter knows when it is right: from the rows of recorded steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.sampling import probabilities
from specdec.verify.base import Verdict
from specdec.verify.tree import ROOT, DraftTree

BINS = 10


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass
class DraftDiagnostics:
    """Accumulates over steps.

    Args:
        greedy: whether the target takes its most probable token, so that p is one-hot.
    """

    greedy: bool
    _distance: dict[int, _Mean] = field(default_factory=dict)
    _confidence: dict[int, tuple[_Mean, _Mean]] = field(default_factory=dict)

    def observe(self, tree: DraftTree, scores: Tensor, verdict: Verdict) -> None:
        """Adds one step.

        Args:
            tree: the draft, N nodes.
            scores: float32 [N + 1, V], log p up to a constant in each row.
            verdict: what the rule said.
        """
        if not len(tree):
            return
        p = probabilities(scores)
        if self.greedy:
            p = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).float()
        on_path = {ROOT, *verdict.path}
        for node, (token, parent, depth) in enumerate(zip(tree.tokens, tree.parents, tree.depths, strict=True)):
            row, q = p[parent + 1], tree.q_below(parent)
            shared = row[token] if q is None else torch.minimum(row, q).sum()
            self._distance.setdefault(depth, _Mean()).add(1.0 - float(shared))
            if q is not None and parent in on_path:
                confidence = float(q[token])
                bin_ = min(int(confidence * BINS), BINS - 1)
                mean_q, share = self._confidence.setdefault(bin_, (_Mean(), _Mean()))
                mean_q.add(confidence)
                share.add(float(node in on_path))

    @property
    def tv_by_position(self) -> list[float]:
        """Mean total variation distance between p and q at each draft position. A deterministic draft has a one-hot q,
        so that the distance is 1 - p(x)."""
        return [self._distance[depth].value for depth in sorted(self._distance)]

    @property
    def calibration(self) -> list[dict[str, float]]:
        """By tenths of q(x): the mean q(x) of the tested draft tokens, and the share of them that was accepted. Empty
        for drafts without a q."""
        return [
            {"confidence": mean_q.value, "accepted": share.value, "count": mean_q.count}
            for _, (mean_q, share) in sorted(self._confidence.items())
        ]
