"""Token-level rejection sampling: the exact rule for drafters that state their q."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.errors import NumericalError
from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.tree import ROOT, DraftTree


class TokenRule(Rule):
    """Accepts x with probability min(1, p(x)/q(x)); at a rejection p becomes norm[(p - q)+].

    Sources: Leviathan et al. 2023 and Chen et al. 2023 for one candidate; Miao et al. 2024 (SpecInfer), Algorithm 2,
    for several candidates of one node, drawn independently. A deterministic draft is the one-hot q, for which the
    residual is p with the candidate removed.
    """

    name = "token"
    needs_q = True

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor]:
        """Independent draws from q, one per lane."""
        q = probabilities(scores)
        position = key.anchor + depth
        uniforms = [key.random.uniform(Stream.DRAFT, position, key.anchor, lane) for lane in lanes]
        return [sample_from_weights(q, u) for u in uniforms], q

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Walks down the tree; at each node tests the children in the order in which they were drawn."""
        path: list[int] = []
        node = ROOT
        while True:
            position = key.anchor + len(path)
            p = probabilities(scores[node + 1])
            for child in tree.children(node):
                x = tree.tokens[child]
                q = None if tree.q is None else tree.q[child]
                u = key.random.uniform(Stream.ACCEPT, position, key.anchor, child)
                if u * draft_probability(x, q) < float(p[x]):
                    break
                rest = residual(p, x, q)
                if rest is None:
                    break
                p = rest
            else:
                stream = Stream.RESIDUAL if tree.children(node) else Stream.BONUS
                u = key.random.uniform(stream, position, key.anchor)
                return Verdict(tuple(path), sample_from_weights(p, u))
            path.append(child)
            node = child


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
