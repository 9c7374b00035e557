"""Random engines against plain decoding: the same tokens, texts and log-probabilities, and a sound cache throughout."""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Drafter, Engine, EngineConfig, SamplingParams
from specdec.drafters.ngram import NgramDrafter
from specdec.kernels.cpu import library as native
from specdec.models.native import NativeModel
from specdec.testing import OracleDrafter, PoisonDrafter
from tests.engine.fuzz import CONTEXT, HELD, KINDS, OCCURS, Tally, case_of, prompt_of
from tests.engines import outputs, run
from tests.tiny import llama, llama_module


def fuzzed(seeds: range) -> Tally:
    tally = Tally()
    for seed in seeds:
        tally.check(case_of(seed))
    return tally


def test_random_engines_decode_as_plain_ones() -> None:
    tally = fuzzed(range(25))
    assert tally.wrong == []
    assert {what for what in OCCURS if not tally.counts[what]} == set()


@pytest.mark.slow
def test_two_hundred_random_engines_decode_as_plain_ones() -> None:
    """As many as run: a rule that cannot judge a drafter's drafts is refused, and does not count."""
    tally = fuzzed(range(200))
    assert tally.wrong == []
    assert tally.counts["cases"] >= 165
    assert {what: tally.counts[what] for what in OCCURS if tally.counts[what] < 7} == {}
    if native.library() is not None:
        assert min(tally.counts[f"weights {kind}"] for kind in KINDS) > 7
        assert min(tally.counts[f"cache {held}"] for held in HELD) > 7


def test_random_greedy_texts_are_those_of_transformers_generate() -> None:
    """Of the float32 models, in tight engines; the oracle shares no code with them."""
    module = llama_module(0, max_context=CONTEXT)
    models = [llama(0, max_context=CONTEXT)]
    if native.library() is not None:
        models.append(NativeModel(llama_module(0, max_context=CONTEXT)))  # type: ignore[arg-type]
    accepted = preempted = 0
    for seed in range(8):
        draw = random.Random(seed)
        prompts, length = [prompt_of(draw) for _ in range(4)], draw.randint(8, 30)
        drafter: Drafter = draw.choice((NgramDrafter(4, branches=2), OracleDrafter(3, 2), PoisonDrafter(seed)))
        config = EngineConfig(block_size=4, num_blocks=22, max_batch_tokens=56, max_num_seqs=4)
        engine = Engine(models[seed % len(models)], drafter, config=config)
        requests = run(engine, prompts, SamplingParams(max_tokens=length))
        for prompt, found in zip(prompts, outputs(requests), strict=True):
            ids = torch.tensor([prompt])
            want = module.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False, pad_token_id=0
            )
            assert found == want[0, len(prompt) :].tolist()
        accepted += sum(request.stats.accepted_tokens for request in requests)
        preempted += sum(request.stats.preemptions for request in requests)
    assert accepted > 50
    assert preempted > 3
