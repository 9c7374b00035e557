"""The engine on tiny random models: what it emits is the target's own, whoever drafts and whoever shares the pass."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from specdec import (
    ConfigError,
    DraftRequest,
    DraftTree,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Needs,
    NumericalError,
    OutOfBlocksError,
    SamplingParams,
    SpecdecError,
)
from specdec.cache import KVPool
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from specdec.testing import RecordingDrafter
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, add, drain, hopeless, outputs, run, small_engine
from tests.fewer import every
from tests.tiny import VOCAB_SIZE, llama, llama_module

pytestmark = pytest.mark.fewer(2)

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [7, 7, 7, 7], [60, 3, 9, 60, 3, 9, 60, 3]]
LENGTH = 24


@pytest.fixture(scope="module")
def greedy_reference() -> list[list[int]]:
    """transformers' own `generate` on each prompt alone."""
    module = llama_module(0)
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        full = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False, pad_token_id=0
        )
        texts.append(full[0, len(prompt) :].tolist())
    assert len(set(map(tuple, texts))) == len(PROMPTS)
    return texts


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_greedy_output_is_that_of_transformers_generate(drafter: str, greedy_reference: list[list[int]]) -> None:
    requests = run(small_engine(DRAFTERS[drafter]()), PROMPTS, SamplingParams(max_tokens=LENGTH))
    assert outputs(requests) == greedy_reference
    assert all(request.finish_reason == "length" for request in requests)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("drafter", every(2, DRAFTERS))
def test_neighbours_chunks_and_preemption_change_nothing(drafter: str, temperature: float) -> None:
    each = [SamplingParams(max_tokens=LENGTH, temperature=temperature, top_p=0.9, seed=i) for i in range(len(PROMPTS))]
    alone = [
        run(small_engine(DRAFTERS[drafter]()), [prompt], params)[0].output
        for prompt, params in zip(PROMPTS, each, strict=True)
    ]
    together = run(small_engine(DRAFTERS[drafter]()), PROMPTS, each)
    assert outputs(together) == alone
    chunked = run(small_engine(DRAFTERS[drafter](), max_num_seqs=2, max_batch_tokens=20), PROMPTS, each)
    assert outputs(chunked) == alone
    short_of_blocks = run(small_engine(DRAFTERS[drafter](), num_blocks=17), PROMPTS, each)
    assert outputs(short_of_blocks) == alone
    assert sum(request.stats.preemptions for request in short_of_blocks) > 0


@pytest.mark.parametrize("drafter", [name for name in DRAFTERS if name != "none"])
def test_gumbel_coupling_gives_the_text_of_plain_decoding_with_the_same_seed(drafter: str) -> None:
    params = [SamplingParams(max_tokens=LENGTH, temperature=1.0, seed=40 + i) for i in range(len(PROMPTS))]
    plain = outputs(run(small_engine(DRAFTERS["none"](), "gumbel"), PROMPTS, params))
    assert outputs(run(small_engine(DRAFTERS[drafter](), "gumbel"), PROMPTS, params)) == plain


def test_seeds_repeat_and_differ() -> None:
    def text(seed: int | None) -> list[int]:
        params = SamplingParams(max_tokens=16, temperature=1.0, seed=seed)
        return run(small_engine(DRAFTERS["model"]()), [[1, 2]], params)[0].output

    assert text(3) == text(3)
    assert len({tuple(text(seed)) for seed in range(5)}) == 5
    assert text(None) != text(None)  # 64 random bits each: equal once in 2**64 runs, or if the texts themselves tie


def test_a_request_without_a_seed_reports_the_one_it_used() -> None:
    [first] = run(small_engine(DRAFTERS["model"]()), [[1, 2]], SamplingParams(max_tokens=12, temperature=1.0))
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=first.random.seed)
    assert run(small_engine(DRAFTERS["model"]()), [[1, 2]], params)[0].output == first.output


def test_requests_join_and_leave_between_steps(greedy_reference: list[list[int]]) -> None:
    engine = small_engine(DRAFTERS["ngram"]())
    lengths = [3, LENGTH, 8, LENGTH, 5]
    requests = []
    for prompt, length in zip(PROMPTS, lengths, strict=True):
        requests.append(add(engine, prompt, SamplingParams(max_tokens=length)))
        engine.step()
        engine.step()
        assert [request.id for request in engine.scheduler.running] == [r.id for r in requests if not r.finished]
    drain(engine)
    assert outputs(requests) == [text[:n] for text, n in zip(greedy_reference, lengths, strict=True)]


def test_a_long_prompt_is_read_in_chunks_while_others_decode(greedy_reference: list[list[int]]) -> None:
    engine = small_engine(DRAFTERS["none"](), max_num_seqs=2, max_batch_tokens=8)
    rows: list[int] = []
    forward = engine.model.run

    def counted(batch: RaggedBatch, pool: KVPool, wants: Wants) -> PassOutput:
        rows.append(len(batch.token_ids))
        return forward(batch, pool, wants)

    engine.model.run = counted  # type: ignore[method-assign, assignment]
    short = add(engine, PROMPTS[0], SamplingParams(max_tokens=LENGTH))
    engine.step()
    long = add(engine, PROMPTS[2], SamplingParams(max_tokens=LENGTH))
    while not long.output:
        engine.step()
        assert len(short.output) == len(rows)  # the short one emits in every pass
    drain(engine)
    assert max(rows) <= 8
    assert outputs([short, long]) == [greedy_reference[0], greedy_reference[2]]


def test_an_end_token_inside_an_accepted_draft_ends_the_text(greedy_reference: list[list[int]]) -> None:
    text = greedy_reference[2]
    eos = text[6]
    want = text[: text.index(eos) + 1]
    prophet = ProphetDrafter([PROMPTS[2] + text], num_draft_tokens=8)
    engine = Engine(llama(0), prophet, eos=[eos])
    [request] = run(engine, [PROMPTS[2]], SamplingParams(max_tokens=LENGTH))
    assert (request.output, request.finish_reason) == (want, "stop")
    assert request.stats.output_tokens == len(want)
    engine = Engine(llama(0), prophet, eos=[eos])
    [request] = run(engine, [PROMPTS[2]], SamplingParams(max_tokens=LENGTH, ignore_eos=True))
    assert (request.output, request.finish_reason) == (text, "length")


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 6, 7])
def test_max_tokens_is_met_exactly_even_if_every_draft_is_right(
    max_tokens: int, greedy_reference: list[list[int]]
) -> None:
    prophet = ProphetDrafter([PROMPTS[1] + greedy_reference[1]], num_draft_tokens=4)
    [request] = run(Engine(llama(0), prophet), [PROMPTS[1]], SamplingParams(max_tokens=max_tokens))
    assert request.output == greedy_reference[1][:max_tokens]
    assert request.stats.passes == -(-max_tokens // 5)


def test_the_context_of_the_model_ends_the_text() -> None:
    engine = Engine(llama(0, max_context=32), DRAFTERS["ngram"]())
    [request] = run(engine, [list(range(30))], SamplingParams(max_tokens=LENGTH))
    assert (len(request.output), request.finish_reason) == (2, "length")


def test_right_drafts_are_all_accepted_and_wrong_ones_change_nothing(greedy_reference: list[list[int]]) -> None:
    params = SamplingParams(max_tokens=20)
    prophet = ProphetDrafter([p + t for p, t in zip(PROMPTS, greedy_reference, strict=True)])
    best = run(small_engine(prophet), PROMPTS, params)
    worst = run(small_engine(NonsenseDrafter()), PROMPTS, params)
    assert outputs(best) == outputs(worst) == [text[:20] for text in greedy_reference]
    for request in best:
        assert request.stats.mean_accepted_length == 5.0
        assert request.stats.acceptance_rate == 1.0
    for request in worst:
        assert request.stats.mean_accepted_length < 1.5
        assert request.stats.drafted_tokens > 50


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_a_request_may_cap_its_own_draft(cap: int, greedy_reference: list[list[int]]) -> None:
    seen: dict[int, list[int]] = {}

    class Spy(NonsenseDrafter):
        def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
            for request in requests:
                seen.setdefault(request.request_id, []).append(request.max_depth)
            return super().propose(requests)

    engine = small_engine(Spy())
    params = [SamplingParams(max_tokens=LENGTH, num_draft_tokens=cap), SamplingParams(max_tokens=LENGTH)]
    capped, free = run(engine, PROMPTS[:2], params)
    assert outputs([capped, free]) == greedy_reference[:2]
    assert max(seen.get(capped.id, [0])) == cap
    assert max(seen[free.id]) == 5
    assert capped.stats.drafted_tokens == sum(seen.get(capped.id, []))


@pytest.mark.parametrize(
    ("drafter", "params", "stored"),
    [
        ("ngram tree", SamplingParams(), False),
        ("early exit", SamplingParams(), False),
        ("largest", SamplingParams(), False),
        ("early exit", SamplingParams(logprobs=0), True),
        ("ngram", SamplingParams(prompt_logprobs=0), True),
        ("ngram", SamplingParams(repetition_penalty=1.2), True),
        ("ngram", SamplingParams(temperature=0.7), True),
    ],
)
def test_logits_are_made_only_for_requests_that_look_at_them(
    drafter: str, params: SamplingParams, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: set[str] = set()
    forward = NativeModel.run

    def noted(self: NativeModel, batch: RaggedBatch, pool: KVPool, wants: Wants) -> PassOutput:
        wanted.add(wants.logits)
        return forward(self, batch, pool, wants)

    monkeypatch.setattr(NativeModel, "run", noted)
    made = RecordingDrafter(needs=Needs(top=3)) if drafter == "largest" else DRAFTERS[drafter]()
    engine = Engine(NativeModel(llama_module(0)), made, config=EngineConfig(num_blocks=64))
    add(engine, [1, 2, 3], replace(params, max_tokens=LENGTH))
    drain(engine)
    assert ("all" in wanted) == stored


class Poisoned:
    """A model whose logits are NaN after one token."""

    def __init__(self, model: TransformersModel, token: int) -> None:
        self._model, self._token = model, token

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants) -> PassOutput:
        logits = self._model.run(batch, pool).logits
        assert logits is not None
        logits = logits.clone()
        logits[batch.token_ids[batch.logit_rows] == self._token] = float("nan")
        return PassOutput(logits)


def test_nan_logits_fail_their_own_request_only(greedy_reference: list[list[int]]) -> None:
    poison = next(token for token in range(VOCAB_SIZE) if all(token not in text for text in greedy_reference))
    engine = Engine(Poisoned(llama(0), poison), DRAFTERS["ngram"]())  # type: ignore[arg-type]
    requests = run(engine, [*PROMPTS[:2], [1, poison], PROMPTS[3]], SamplingParams(max_tokens=LENGTH))
    failed = requests.pop(2)
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, NumericalError)
    assert "dtype" in str(failed.error)
    assert outputs(requests) == [greedy_reference[0], greedy_reference[1], greedy_reference[3]]


def test_banning_every_token_fails_its_own_request_only(greedy_reference: list[list[int]]) -> None:
    params = [SamplingParams(max_tokens=LENGTH), hopeless(VOCAB_SIZE, max_tokens=LENGTH)]
    good, bad = run(small_engine(DRAFTERS["ngram"]()), PROMPTS[:2], params)
    assert good.output == greedy_reference[0]
    assert bad.output == [11]
    assert isinstance(bad.error, NumericalError)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_an_engine_and_its_cache_go_with_their_last_reference(drafter: str) -> None:
    gc.collect()
    gc.disable()  # a cache is gigabytes, which nobody should have to wait for until cycles are looked for
    try:
        engine = small_engine(DRAFTERS[drafter]())
        run(engine, PROMPTS[:2], SamplingParams(max_tokens=LENGTH))
        gone = [weakref.ref(part) for part in (engine, engine.cache, engine.cache.target)]
        del engine
        assert [ref() for ref in gone] == [None, None, None]
    finally:
        gc.enable()


def test_an_aborted_request_gives_everything_back() -> None:
    engine = small_engine(DRAFTERS["model"]())
    first, second = (add(engine, prompt, SamplingParams(max_tokens=LENGTH)) for prompt in PROMPTS[:2])
    engine.step()
    output = engine.abort(first)
    assert output is not None
    assert (output.request, output.finish_reason, first.finish_reason) == (first, "aborted", "aborted")
    assert engine.abort(first) is None
    drain(engine)
    assert second.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "params", "error", "message"),
    [
        ([], {}, InvalidRequestError, "empty"),
        ([1, VOCAB_SIZE], {}, InvalidRequestError, "outside the vocabulary of 64"),
        ([-1], {}, InvalidRequestError, "outside the vocabulary"),
        ([1] * 256, {}, InvalidRequestError, "at most 255"),
        ([1], {"stop": "x"}, InvalidRequestError, "tokenizer"),
        ([1], {"bad_words": ["x"]}, InvalidRequestError, "tokenizer"),
        ([1], {"logit_bias": {VOCAB_SIZE: 1.0}}, ConfigError, "logit_bias"),
        ([1] * 100, {"max_tokens": 100}, OutOfBlocksError, "Raise num_blocks, or lower max_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_is_queued(
    prompt: list[int], params: dict[str, object], error: type[SpecdecError], message: str
) -> None:
    engine = small_engine(DRAFTERS["ngram"](), num_blocks=20)
    with pytest.raises(error, match=message):
        add(engine, prompt, SamplingParams(**params))  # type: ignore[arg-type]
    assert not engine.has_work


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1.5], "Token id 0 is 1.5. Give integers"),
        ([1, True], "Token id 1 is True"),
        ([1, "a"], "Item 1 of the prompt is 'a', which is not a token id"),
        ([[1, 2]], r"Item 0 of the prompt is \[1, 2\], which is not a token id"),
        ("text", "'text' is not a list of token ids"),
        (b"text", r"b'text' \(bytes\) is not a list of token ids"),
        (None, "None is not a list of token ids"),
        ({1, 2}, "is not a list of token ids"),
        ([10**5000], "Token id … is outside the vocabulary of 64"),
        (torch.tensor([[1, 2]]), "which is not a token id"),
    ],
)
def test_what_are_no_token_ids_is_refused(prompt: Any, message: str) -> None:
    engine = small_engine(DRAFTERS["ngram"]())
    with pytest.raises(InvalidRequestError, match=message):
        engine.make_request(prompt, SamplingParams())


@pytest.mark.parametrize("prompt", [(1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), [np.int64(1), 2]])
def test_token_ids_of_any_integers_are_python_integers_in_a_request(prompt: Any) -> None:
    request = small_engine(DRAFTERS["ngram"]()).make_request(prompt, SamplingParams())
    assert request.prompt == [1, 2]
    assert {type(token) for token in request.prompt} == {int}


@pytest.mark.parametrize("params", [None, {"max_tokens": 1}, SamplingParams])
def test_what_are_no_sampling_parameters_is_refused(params: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"params = .* cannot work. Give SamplingParams"):
        small_engine(DRAFTERS["ngram"]()).make_request([1], params)


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="block_size = 0 cannot work"):
        EngineConfig(block_size=0)
    with pytest.raises(ConfigError, match="max_batch_tokens=8 cannot hold 4 sequences with 6 rows each"):
        Engine(llama(0), NonsenseDrafter(), config=EngineConfig(max_batch_tokens=8, max_num_seqs=4))


def test_the_target_module_still_works_on_its_own_attention() -> None:
    module = llama_module(0)
    ids = torch.tensor([PROMPTS[1]])
    with torch.inference_mode():
        before = copy.deepcopy(module)(input_ids=ids).logits
        TransformersModel(module)
        module.set_attn_implementation("sdpa")
        after = module(input_ids=ids).logits
    assert torch.allclose(before, after, atol=1e-5)


class _Words:
    """A tokenizer that gives every token a word of its own."""

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return "".join(f"{token} " for token in ids)


def test_pieces_of_text_say_whether_a_drafter_proposed_them() -> None:
    """The accepted path was drafted; the target's own token after it was not."""
    engine = Engine(llama(0), DRAFTERS["ngram"](), "gumbel", tokenizer=_Words())
    add(engine, [1, 2, 3, 1, 2, 3, 1], SamplingParams(max_tokens=40))
    accepted = 0
    while engine.has_work:
        for output in engine.step():
            wanted = [index < len(output.path) for index in range(len(output.token_ids))]
            assert [piece.drafted for piece in output.pieces] == wanted
            assert [piece.text for piece in output.pieces] == [f"{token} " for token in output.token_ids]
            accepted += len(output.path)
    assert accepted > 0
