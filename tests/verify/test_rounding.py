"""Where only rounding can refuse a draft token: q is p but for the last bit, and the uniform is the last of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch

from specdec.randomness import WORD, RandomSource, Stream
from specdec.registry import RULES
from specdec.verify.base import StepKey
from specdec.verify.tree import ROOT, DraftTree

LAST = (WORD - 0.5) / WORD
P = torch.tensor([0.5, 0.25, 0.25])
ABOVE = torch.nextafter(P, torch.ones(3))


@dataclass(frozen=True)
class Constant:
    """Every accept number is the last of the grid, every other one is in the middle."""

    def uniform(self, stream: Stream, position: int, anchor: int = 0, lane: int = 0) -> float:
        return LAST if stream == Stream.ACCEPT else 0.5


KEY = StepKey(cast(RandomSource, Constant()), anchor=1)
ROWS = torch.stack([P, torch.tensor([0.0, 0.0, 1.0])]).log()
"""The bonus token is 2; token 0 or 1 can only come from the first row."""


def test_the_numbers_are_what_they_should_be() -> None:
    assert bool((P < ABOVE).all())
    assert float(ABOVE[0]) * LAST > float(P[0])
    assert torch.equal(torch.softmax(ROWS[0], 0), P)


@pytest.mark.parametrize(
    ("name", "candidates"), [("token", 1), ("multiround", 1), ("multiround", 2), ("rrs", 1), ("rrs", 2)]
)
def test_a_token_that_leaves_no_residual_is_accepted(name: str, candidates: int) -> None:
    rule = RULES.create(name)
    tree = DraftTree((0, 1)[:candidates], (ROOT,) * candidates, ABOVE[None])
    rows = ROWS[[0, *[1] * candidates]]
    [verdict] = rule.accept([tree], [rows], [KEY])
    assert (verdict.path, verdict.next_token) == ((0,), 2)


@pytest.mark.parametrize("name", ["block", "traversal", "hsd"])
def test_a_prefix_that_leaves_no_residual_emits_from_the_target(name: str) -> None:
    """The whole chain is refused, and after the root nothing is left of p - q."""
    [verdict] = RULES.create(name).accept([DraftTree.chain([0], ABOVE[None])], [ROWS], [KEY])
    assert verdict.path == ()
    assert verdict.next_token in (0, 1)


@pytest.mark.parametrize("name", ["block", "traversal", "hsd"])
def test_a_residual_too_small_to_be_added_to_one_is_drawn_from(name: str) -> None:
    """As above, but a fourth token has a mass of 1e-20 under p and none under q."""
    few, p = torch.tensor([1e-20]), torch.cat([P, torch.tensor([1e-20])])
    q = torch.cat([ABOVE, 0 * few])
    [verdict] = RULES.create(name).accept([DraftTree.chain([0], q[None])], [p.log().repeat(2, 1)], [KEY])
    assert (verdict.path, verdict.next_token) == ((), 3)
