"""A dozen prompts of `benchmarks.lossless`: on the real model, rounded, no drafter and no batch changes a token."""

from __future__ import annotations

import pytest

from benchmarks.lossless import decode, decode_twice
from specdec import SamplingParams
from specdec.models.loading import LoadedModel, load
from specdec.prompts import load_prompts
from tests.test_real_model import MORE_PROMPTS

pytestmark = pytest.mark.xdist_group("real model")

LENGTH = 24
FOUR_MORE = [
    "Repeat after me: one two three, one two three, one two three.",
    "Give three synonyms of the word large.",
    "Who wrote Hamlet? Answer in one sentence.",
    "Count from 1 to 20, separated by commas.",
]
CHATS = [
    [{"role": "user", "content": text}]
    for text in [*(record.prompt for record in load_prompts()), *MORE_PROMPTS, *FOUR_MORE]
]


@pytest.fixture(scope="module", params=[pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def rounded(request: pytest.FixtureRequest) -> LoadedModel:
    return load(dtype=request.param)


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.8, marks=pytest.mark.slow)], ids=["greedy", "seeded"])
def test_speculation_and_batches_change_no_token(rounded: LoadedModel, temperature: float) -> None:
    params = [SamplingParams(max_tokens=LENGTH, temperature=temperature, seed=seed) for seed in range(len(CHATS))]
    plain, _ = decode(rounded, "none", 1, CHATS, params)
    for drafter, batch in (("ngram", 1), ("ngram:3", 8), ("early_exit", 8)):
        texts, stats = decode(rounded, drafter, batch, CHATS, params)
        assert texts == plain
        assert stats.drafted_tokens > 0


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8], ids=["greedy", "seeded"])
def test_warm_is_cold_is_plain(rounded: LoadedModel, temperature: float) -> None:
    """With the prefix cache, over so few blocks that requests lose their place."""
    params = [SamplingParams(max_tokens=LENGTH, temperature=temperature, seed=seed) for seed in range(len(CHATS))]
    plain, _ = decode(rounded, "none", 1, CHATS, params, prefix_cache=False)
    preemptions = 0
    for drafter in ("ngram", "suffix", "head"):
        cold, warm, stats = decode_twice(rounded, drafter, 8, CHATS, params, 18)
        assert cold == plain
        assert warm == plain
        assert stats.cached_tokens > 0
        preemptions += stats.preemptions
    assert preemptions > 0
