"""Candidates that are ranked by what the target will most likely emit, with noise that both know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.base import Drafter, DraftRequest
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.engine import Engine
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import LogitsTransform
from specdec.verify.base import StepKey
from specdec.verify.gumbel import GumbelRule
from specdec.verify.select import select_rule
from specdec.verify.tree import DraftTree
from tests.engines import run, small_engine
from tests.tiny import llama

V = 50
RANDOM, ANCHOR = RandomSource(11), 9


def request(rule: str = "gumbel", **params: Any) -> DraftRequest:
    transform = LogitsTransform(SamplingParams(**params), [1, 2], V)
    return DraftRequest(0, [1, 2], 4, transform, RULES.create(rule), StepKey(RANDOM, ANCHOR))


def some_logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(V, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("depth", [0, 2])
def test_chances_are_the_softmax_of_logits_and_noise(temperature: float, depth: int) -> None:
    for seed in range(20):
        logits = some_logits(seed)
        law = torch.softmax(logits.double() + temperature * RANDOM.gumbel(ANCHOR + depth, V), 0)
        ranked = request(temperature=temperature).ranked(logits, [3] * depth, 4)
        assert [token for token, _ in ranked] == law.topk(4).indices.tolist()
        assert [chance for _, chance in ranked] == pytest.approx(law.topk(4).values.tolist(), rel=2e-5)


def test_without_a_temperature_they_are_the_softmax_of_the_logits() -> None:
    logits = some_logits(0)
    ranked = request("greedy").ranked(logits, [], 3)
    law = torch.softmax(logits.double(), 0).topk(3)
    assert [token for token, _ in ranked] == law.indices.tolist()
    assert [chance for _, chance in ranked] == pytest.approx(law.values.tolist(), rel=1e-5)


@pytest.mark.parametrize("params", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}], ids=str)
def test_the_first_is_what_the_target_emits_if_it_has_these_logits(params: dict[str, Any]) -> None:
    """And nothing is ranked that its filters leave out."""
    for seed in range(30):
        one, logits = request(temperature=0.8, **params), some_logits(seed)
        scores = one.transform.scores(logits[None], [()])
        [verdict] = GumbelRule().accept([DraftTree((0,), (-1,))], [scores.repeat(2, 1)], [one.key])
        emitted = 0 if verdict.path else verdict.next_token
        ranked = one.ranked(logits, [], 8)
        assert ranked[0][0] == emitted
        assert all(scores[0, token] > -torch.inf for token, _ in ranked)


@pytest.mark.parametrize("params", [{"temperature": 0.9}, {"temperature": 0.9, "top_p": 0.6}, {}], ids=str)
def test_a_drafter_that_knows_some_tokens_ranks_them_as_if_no_other_had_mass(params: dict[str, Any]) -> None:
    ids = torch.tensor([2, 3, 10, 31, 49])
    rule = "gumbel" if params else "greedy"
    for seed in range(10):
        known = some_logits(seed)[: len(ids)]
        all_of_them = torch.full((V,), -torch.inf)
        all_of_them[ids] = known
        one = request(rule, **params)
        some, whole = one.ranked(known, [], 4, ids), one.ranked(all_of_them, [], 4)
        assert [token for token, _ in some] == [token for token, _ in whole[: len(some)]]
        assert [chance for _, chance in some] == pytest.approx([chance for _, chance in whole[: len(some)]], rel=2e-5)


@pytest.mark.parametrize(
    ("drafter", "expected"),
    [
        (lambda: HeadDrafter(), "gumbel"),
        (lambda: HeadDrafter(branches=2), "traversal"),
        (lambda: HeadDrafter(choices=[[0], [1]]), "traversal"),
        (lambda: ModelDrafter(llama(1)), "block"),
        (lambda: ModelDrafter(llama(1), dynamic=True), "gumbel"),
        (lambda: EarlyExitDrafter(3, 1), "block"),
        (lambda: EarlyExitDrafter(3, 1, dynamic=True), "gumbel"),
        (lambda: CascadeDrafter([HeadDrafter(), NgramDrafter()]), "gumbel"),
    ],
)
def test_which_drafters_share_their_noise_if_nobody_says(drafter: Any, expected: str) -> None:
    """A tree that was asked for by its shape is drawn."""
    one: Drafter = drafter()
    warm = SamplingParams(temperature=1.0)
    assert select_rule("auto", warm, one.deterministic, one.trees, one.shares, one.ranks).name == expected


@pytest.mark.parametrize("params", [{"temperature": 1.0}, {"temperature": 0.6, "top_k": 8}], ids=str)
def test_a_model_that_drafts_for_itself_is_always_right(params: dict[str, Any]) -> None:
    """Whatever it ranks second costs nothing: the first is the target's own draw."""
    engine: Engine = small_engine(ModelDrafter(llama(0), 3, 2, dynamic=True))
    prompts: Sequence[Sequence[int]] = [[1, 2, 3], [7]]
    for one in run(engine, prompts, [SamplingParams(max_tokens=16, seed=3, **params)] * 2):
        assert one.stats.mean_accepted_length >= 3.2
