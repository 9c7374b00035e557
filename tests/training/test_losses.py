"""Losses against sums written out in exact fractions and float64."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from specdec.errors import ConfigError
from specdec.training.losses import LOSSES, LossConfig, Rows

P = [[Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)], [Fraction(0), Fraction(1), Fraction(0)]]
"""The first row has 1/8 outside."""
Q = [[Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)], [Fraction(1, 3)] * 3]
LABELS = [3, 1]
"""The first row's token is outside."""


def rows() -> Rows:
    p, q = (torch.tensor([[float(x) for x in row] for row in table]) for table in (P, Q))
    return Rows(q.log(), p, torch.tensor(LABELS))


def test_total_variation_counts_what_lies_outside() -> None:
    by_hand = [(Fraction(1, 4) + 0 + Fraction(3, 8) + Fraction(1, 8)) / 2, Fraction(2, 3)]
    assert LOSSES["tv"](rows()).tolist() == pytest.approx([float(x) for x in by_hand])
    rejected = [1 - sum(map(min, p, q)) for p, q in zip(P, Q, strict=True)]
    assert by_hand == rejected  # Leviathan et al. 2023, theorem 3.5
    assert (1 - rows().accepted).tolist() == pytest.approx([float(x) for x in rejected])


def test_the_likelihood_of_an_acceptance() -> None:
    assert LOSSES["lk"](rows()).tolist() == pytest.approx([-math.log(5 / 8), -math.log(1 / 3)])


def test_cross_entropy_leaves_out_what_no_draft_can_guess() -> None:
    assert LOSSES["ce"](rows()).tolist() == pytest.approx([0.0, math.log(3)])


def test_kl_is_between_laws_on_what_the_draft_knows() -> None:
    known = [Fraction(4, 7), Fraction(2, 7), Fraction(1, 7)]
    first = sum(float(p) * math.log(p / q) for p, q in zip(known, Q[0], strict=True))
    assert LOSSES["kl"](rows()).tolist() == pytest.approx([first, math.log(3)], rel=1e-6)


def test_terms_add_up_and_rows_count_less_along_a_block() -> None:
    loss = LossConfig(ce=0.5, tv=2.0, confidence=0)
    each = [0.5 * ce + 2 * tv for ce, tv in zip(*(LOSSES[name](rows()).tolist() for name in ("ce", "tv")), strict=True)]
    assert loss.of(rows()).tolist() == pytest.approx(each)
    assert LossConfig(decay=4).row_weights(3).tolist() == pytest.approx([1, math.exp(-0.25), math.exp(-0.5)])
    assert LossConfig(decay=0).row_weights(3).tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_draft_that_is_the_targets_law_is_a_minimum(name: str) -> None:
    """Except for cross entropy, whose minimum is the law only on average over tokens."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 5, generator=generator, requires_grad=True)
    p = logits.detach().softmax(-1)
    labels = torch.arange(5).repeat(4)
    losses = LOSSES[name](Rows(logits.log_softmax(-1), p, labels))
    if name == "ce":
        losses = losses.view(4, 5)[0] * 0 + sum(
            p[row % 20, label] * LOSSES[name](Rows(logits.log_softmax(-1), p, torch.full((20,), label)))[row % 20]
            for row in range(1)
            for label in range(5)
        )
    other = Rows((logits.detach() + 0.3 * torch.randn(20, 5, generator=generator)).log_softmax(-1), p, labels)
    if name in ("tv", "kl", "lk"):
        assert losses.max() < 1e-5
        assert LOSSES[name](other).min() > losses.max()
    else:
        losses.sum().backward()
        assert logits.grad is not None
        assert logits.grad[0].abs().max() < 1e-5


@pytest.mark.parametrize("wrong", [{"ce": -1}, {"ce": 0, "tv": 0}, {"decay": float("nan")}])
def test_weights_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LossConfig(**wrong)
