"""How candidates are drawn: tensor and exact faces side by side, for the rules that share them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import prod

import torch
from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey
from specdec.verify.rational import ONE, DrawLaw, Row, normalized, without


class IndependentDraws(Rule):
    """Candidates of a node are independent draws from q; the same token may come twice."""

    needs_q = True

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor]:
        """One token per lane, and q."""
        q = probabilities(scores)
        return [sample_from_weights(q, u) for u in _uniforms(key, depth, lanes)], q

    def draw_points(self, key: StepKey, depth: int, lanes: Sequence[int]) -> list[float]:
        """One for each lane."""
        return _uniforms(key, depth, lanes)

    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        """Π q(x)."""
        support = [token for token, mass in enumerate(q) if mass]
        return {tokens: prod((q[t] for t in tokens), start=ONE) for tokens in product(support, repeat=num_candidates)}


class DrawsWithoutReplacement(Rule):
    """Candidates of a node are drawn one after the other, each from q without those drawn before."""

    needs_q = True

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], Tensor]:
        """One token per lane while mass is left, and q."""
        q = probabilities(scores)
        rest, tokens = q, []
        for u in _uniforms(key, depth, lanes[: int(torch.count_nonzero(q))]):
            tokens.append(sample_from_weights(rest, u))
            rest = rest.clone()
            rest[tokens[-1]] = 0.0
        return tokens, q

    def draw_points(self, key: StepKey, depth: int, lanes: Sequence[int]) -> list[float] | None:
        """Of a single lane: what others draw from depends on it."""
        return _uniforms(key, depth, lanes) if len(lanes) == 1 else None

    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        """Π q(x) / (1 - mass of the tokens before x)."""
        return without_replacement_law(q, num_candidates)


def _uniforms(key: StepKey, depth: int, lanes: Sequence[int]) -> list[float]:
    return [key.random.uniform(Stream.DRAFT, key.anchor + depth, key.anchor, lane) for lane in lanes]


def without_replacement_law(q: Row, num_candidates: int) -> DrawLaw:
    """Ordered draws from q without those drawn before; fewer where the support ends."""
    law: DrawLaw = {}

    def extend(tokens: tuple[int, ...], rest: Row, probability: Fraction) -> None:
        if len(tokens) == num_candidates or not any(rest):
            law[tokens] = probability
            return
        for token, mass in enumerate(normalized(rest)):
            if mass:
                extend((*tokens, token), without(rest, token), probability * mass)

    extend((), q, ONE)
    return law
