"""Distances and calibration, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from specdec.measure.diagnostics import DraftDiagnostics
from specdec.verify.base import Verdict
from specdec.verify.tree import DraftTree

P = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])


def test_the_distance_of_a_drawn_draft_is_half_the_absolute_difference() -> None:
    q = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    found = DraftDiagnostics(greedy=False)
    found.observe(DraftTree.chain([1, 2], q), P.log(), Verdict((0,), 1))
    by_hand = [(P[i] - q[i]).abs().sum().item() / 2 for i in (0, 1)]
    assert found.tv_by_position == pytest.approx(by_hand)
    assert found.calibration == [{"confidence": pytest.approx(0.5), "accepted": 0.5, "count": 2}]


def test_a_deterministic_draft_is_as_far_as_the_target_doubts_it_and_has_no_confidence() -> None:
    found = DraftDiagnostics(greedy=False)
    found.observe(DraftTree.chain([0, 2]), P.log(), Verdict((), 1))
    assert found.tv_by_position == pytest.approx([0.5, 0.9])
    assert found.calibration == []


def test_a_greedy_target_has_a_distance_of_nothing_or_one() -> None:
    found = DraftDiagnostics(greedy=True)
    found.observe(DraftTree.chain([0, 0]), P.log(), Verdict((0,), 1))
    found.observe(DraftTree.chain([0, 1]), P.log(), Verdict((0, 1), 1))
    assert found.tv_by_position == [0.0, 0.5]


def test_only_tokens_that_came_to_their_test_are_calibrated() -> None:
    q = torch.tensor([[0.65, 0.35, 0.0], [0.0, 0.0, 1.0]])
    tree = DraftTree((1, 0, 2), (-1, -1, 0), q)
    found = DraftDiagnostics(greedy=False)
    found.observe(tree, P[[0, 0, 1, 2]].log(), Verdict((1,), 0))  # the second candidate was kept
    assert found.calibration == [
        {"confidence": pytest.approx(0.35), "accepted": 0.0, "count": 1},
        {"confidence": pytest.approx(0.65), "accepted": 1.0, "count": 1},
    ]


def test_an_empty_draft_says_nothing() -> None:
    found = DraftDiagnostics(greedy=False)
    found.observe(DraftTree(), P[:1].log(), Verdict((), 0))
    assert (found.tv_by_position, found.calibration) == ([], [])
