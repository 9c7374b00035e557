"""One draft position at a time: the rows of a trace, and how often a rule accepts there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.analysis.traces import Trace
from specdec.randomness import RandomSource
from specdec.sampling import probabilities
from specdec.verify.base import Rule, StepKey
from specdec.verify.tree import ROOT, DraftTree


@dataclass(frozen=True, eq=False)
class Position:
    """Target and drafter where a draft begins.

    Args:
        p, q: float64 [V], summing to one.
        scores: float32 [V], log p up to a constant.
    """

    p: Tensor
    q: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Share:
    """A share of accepted drafts.

    Args:
        mean: over all positions and draws.
        error: its standard error at these positions, the draws being the only chance.
    """

    mean: float
    error: float


def positions(trace: Trace) -> list[Position]:
    """The first draft position of every step that drafts from a q."""
    found = []
    for step in trace.steps:
        if (drawn_from := step.tree.q_below(ROOT)) is not None:
            p, q = probabilities(step.scores[0]).double(), drawn_from.double()
            found.append(Position(p / p.sum(), q / q.sum(), step.scores[0]))
    return found


@torch.inference_mode()
def accepted(rule: Rule, where: Sequence[Position], candidates: int, draws: int) -> Share:
    """How often `rule` accepts one of its own candidates: it draws them from q, and judges them against p.

    Args:
        rule: under test; both of its faces are the engine's.
        where: at least one position.
        candidates: of each draft, all for the same token.
        draws: at each position, at least two, with random numbers of their own.
    """
    means = torch.zeros(len(where), dtype=torch.float64)
    for index, position in enumerate(where):
        log_q = position.q.log().float()
        for draw in range(draws):
            key = StepKey(RandomSource(draw), index)
            tokens, q = rule.draw(log_q, key, 0, range(candidates))
            tree = DraftTree(tuple(tokens), (ROOT,) * len(tokens), None if q is None else q[None])
            [verdict] = rule.accept([tree], [position.scores.expand(len(tokens) + 1, -1)], [key])
            means[index] += bool(verdict.path) / draws
    spread = (means * (1 - means)).sum() / (draws - 1)
    return Share(float(means.mean()), float(spread.sqrt()) / len(where))
