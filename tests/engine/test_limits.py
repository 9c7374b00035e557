"""Least lengths, allowed tokens and ends of a request's own: exact under every rule, for every kind of draft."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from specdec import DraftTree, Engine, EngineConfig, SamplingParams, SpecdecError
from specdec.verify.tree import ROOT
from tests.engines import DRAFTERS, ProphetDrafter, outputs, run, small_engine
from tests.fewer import every
from tests.texts import CASES, Limited, Text, check_law, check_parts
from tests.tiny import VOCAB_SIZE, llama, llama_module

pytestmark = pytest.mark.fewer(3)

A, B, STOP, OUT = range(4)
"""Two ordinary tokens, one that ends the text, one that is not allowed."""


def may_follow(text: Text) -> set[int]:
    """A text has at least two tokens and does not begin with B."""
    if OUT in text or STOP in text[:2]:
        return {A}  # no such text can be
    return {A} if not text else {A, B} if len(text) < 2 else {A, B, STOP}


SCENE = Limited(
    size=4,
    params=SamplingParams(
        temperature=1.0, min_tokens=2, stop_token_ids=[STOP], allowed_token_ids=[A, B, STOP], begin_suppress_tokens=[B]
    ),
    ends=frozenset([STOP]),
    may_follow=may_follow,
    fixed={"chain": DraftTree.chain([A, STOP]), "tree": DraftTree((OUT, A, B, STOP, B), (ROOT, ROOT, ROOT, 1, 1))},
)


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_every_rules_law_gives_the_limited_law_exactly(name: str, kind: str, shape: str) -> None:
    check_law(SCENE, name, kind, shape)


@pytest.mark.parametrize(("name", "kind", "shape"), every(4, (case for case in CASES if case[0] != "gumbel")))
def test_a_limited_text_of_the_engines_parts_follows_it(name: str, kind: str, shape: str) -> None:
    check_parts(SCENE, name, kind, shape)


PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 30)), [7, 7, 7, 7], [60, 3, 9, 60, 3, 9, 60, 3]]
LIMITS: dict[str, dict[str, Any]] = {
    "min_tokens": {"min_tokens": 9},
    "min_tokens of stop ids": {"min_tokens": 9, "ignore_eos": True, "stop_token_ids": range(0, VOCAB_SIZE, 3)},
    "stop ids": {"stop_token_ids": [3, 11, 12, 40]},
    "allowed": {"allowed_token_ids": range(0, VOCAB_SIZE, 2)},
    "allowed, and a least length": {"allowed_token_ids": [*range(8), 20, 21], "min_tokens": 5},
    "a beginning": {"begin_suppress_tokens": range(32), "repetition_penalty": 1.3},
}
EOS = [0, 4, 9, 20, 33, 50]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_every_drafter_gives_the_text_of_plain_decoding_within_limits(
    limits: dict[str, Any], temperature: float
) -> None:
    params = [SamplingParams(max_tokens=16, temperature=temperature, seed=i, **limits) for i in range(len(PROMPTS))]

    def texts(name: str) -> list[list[int]]:
        config = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128)
        engine = Engine(llama(0), DRAFTERS[name](), "gumbel", config, eos=EOS)
        requests = run(engine, PROMPTS, params)
        if name == "nonsense":
            assert sum(request.stats.drafted_tokens for request in requests) > 0
        return outputs(requests)

    plain = texts("none")
    assert [texts(name) for name in DRAFTERS] == [plain] * len(DRAFTERS)
    ends = {*params[0].stop_token_ids, *(() if params[0].ignore_eos else EOS)}
    for text in plain:
        assert not ends.intersection(text[: min(params[0].min_tokens, len(text))])
        assert not ends.intersection(text[:-1])
        assert set(text) <= set(params[0].allowed_token_ids or range(VOCAB_SIZE))
        assert text[0] not in params[0].begin_suppress_tokens
        assert len(text) == 16 or text[-1] in ends
    assert any(len(text) < 16 for text in plain) or limits is LIMITS["a beginning"] or len(ends) == 0


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_greedy_texts_within_limits_are_those_of_transformers_generate(drafter: str) -> None:
    module, allowed = llama_module(0), [token for token in range(VOCAB_SIZE) if token % 5]
    banned = [token for token in range(VOCAB_SIZE) if token % 5 == 0]
    want = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        full = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0,
            min_new_tokens=7, eos_token_id=[4, 9, 33, 41, 52], suppress_tokens=banned,
            begin_suppress_tokens=list(range(1, 30)),
        )  # fmt: skip
        want.append(full[0, len(prompt) :].tolist())
    assert len({len(text) for text in want}) > 1  # some ended
    params = SamplingParams(
        max_tokens=20, min_tokens=7, allowed_token_ids=allowed, begin_suppress_tokens=range(1, 30),
        stop_token_ids=[41, 52],
    )  # fmt: skip
    config = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128)
    requests = run(Engine(llama(0), DRAFTERS[drafter](), config=config, eos=[4, 9, 33]), PROMPTS, params)
    assert outputs(requests) == want


def test_a_stop_token_inside_an_accepted_draft_ends_the_text() -> None:
    [plain] = run(small_engine(DRAFTERS["none"]()), [PROMPTS[2]], SamplingParams(max_tokens=20))
    stop = plain.output[6]
    prophet = ProphetDrafter([plain.tokens], num_draft_tokens=8)
    [request] = run(Engine(llama(0), prophet), [PROMPTS[2]], SamplingParams(max_tokens=20, stop_token_ids=[stop]))
    assert request.output == plain.output[: plain.output.index(stop) + 1]
    assert request.finish_reason == "stop"
    assert request.stats.accepted_tokens > 2


def test_logits_are_edited_only_until_the_least_length_is_reached() -> None:
    """After it a greedy request is judged by argmax again."""
    engine = Engine(llama(0), DRAFTERS["none"](), eos=[3])
    request = engine.make_request([1, 2], SamplingParams(max_tokens=6, min_tokens=2))
    engine.add(request)
    seen = []
    while engine.has_work:
        seen.append(request.by_argmax)
        engine.step()
    assert seen[:3] == [False, False, True]
    assert (
        Engine(llama(0), DRAFTERS["none"]()).make_request([1], SamplingParams(min_tokens=2)).by_argmax
    )  # no end at all


def test_ids_outside_the_vocabulary_are_refused_by_name() -> None:
    engine = small_engine(DRAFTERS["none"]())
    for name in ("stop_token_ids", "allowed_token_ids", "begin_suppress_tokens"):
        with pytest.raises(SpecdecError, match=rf"Token id {VOCAB_SIZE} in {name}"):
            engine.make_request([1], SamplingParams(**{name: [3, VOCAB_SIZE]}))


def test_an_end_token_that_no_logit_stands_for_changes_nothing() -> None:
    """A tokenizer may name an id beyond the head."""
    engine = Engine(llama(0), DRAFTERS["none"](), eos=[VOCAB_SIZE + 3])
    [request] = run(engine, [[1, 2]], SamplingParams(max_tokens=4, min_tokens=2))
    assert request.finish_reason == "length"
