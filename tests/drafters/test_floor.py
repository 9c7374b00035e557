"""A floor that a policy names: what lies below it is not drafted, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from specdec.drafters.base import Drafter, Outcome, TargetHandle
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.verify.tree import ROOT, DraftTree
from tests.drafting import draft_request
from tests.tiny import llama

TARGET = TargetHandle(llama(0))


def suffix() -> Drafter:
    return SuffixDrafter(max_nodes=64, floor=0.0, store=None)


def recycling() -> Drafter:
    return RecyclingDrafter(max_nodes=64, floor=0.0, first=False)


def both() -> Drafter:
    return CascadeDrafter([suffix(), recycling()], max_nodes=128)


def survivals(tree: DraftTree) -> dict[tuple[int, ...], float]:
    """Of every node, by the tokens on the way to it."""
    found: list[float] = []
    for parent, chance in zip(tree.parents, tree.chances, strict=True):
        found.append(chance * (1.0 if parent == ROOT else found[parent]))
    return {tree.prefix(node): survival for node, survival in enumerate(found)}


@pytest.mark.parametrize("make", [suffix, recycling])
@pytest.mark.parametrize("floor", [0.02, 0.1, 0.3, 1.0])
def test_a_draft_has_the_nodes_above_the_floor_and_no_others(make: Callable[[], Drafter], floor: float) -> None:
    draw = random.Random(3)
    text = [draw.randrange(6) for _ in range(60)]
    drafter = make()
    drafter.bind(TARGET)
    drafter.observe([Outcome(0, 0, tuple(text[:1]))])
    for end in range(40, 60):
        request = draft_request(text[:end], 6)
        [whole], [cut] = drafter.propose([request]), drafter.propose([replace(request, floor=floor)])
        assert survivals(cut) == {path: each for path, each in survivals(whole).items() if each >= floor}


def test_a_cascade_tells_its_stages() -> None:
    drafter, text = both(), [1, 2, 3, 1, 2, 4, 1, 2]
    drafter.bind(TARGET)
    request = draft_request(text, 6)
    [whole], [cut] = drafter.propose([request]), drafter.propose([replace(request, floor=0.2)])
    assert 0 < len(cut) < len(whole)
    assert min(survivals(cut).values()) >= 0.2
