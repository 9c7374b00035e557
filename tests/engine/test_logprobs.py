"""Log-probabilities are the plain model's own, in float64, also of tokens whose rows lie elsewhere in a draft tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from specdec import Drafter, DraftRequest, DraftTree, EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Needs, Outcome, TargetHandle
from specdec.engine.outputs import Generation, StepOutput
from specdec.engine.request import Request
from specdec.models.loading import LoadedModel
from specdec.verify.tree import ROOT
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, add, drain, run, small_engine
from tests.tiny import llama, llama_module

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [60, 3, 9, 60, 3, 9, 60, 3]]
LENGTH = 20
ERROR = 2e-4
"""float32 logits of two implementations differ by less than 1e-4 (tests/models/test_architectures.py)."""


def reference(tokens: Sequence[int]) -> Tensor:
    """Log-probabilities after each token but the last, float64 [n - 1, V]."""
    module = llama_module(0).double()
    with torch.inference_mode():
        return torch.log_softmax(module(input_ids=torch.tensor([list(tokens[:-1])])).logits[0], -1)


class Wrong(Drafter):
    """A tree with a wrong sibling before each right node: no node lies at the place of its depth."""

    name = "wrong first"

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        super().__init__(num_draft_tokens=3, branches=2)
        self._texts = texts

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = []
        for request in requests:
            have = list(request.tokens)
            text = next(t for t in self._texts if list(t[: len(have)]) == have)
            right = list(text[len(have) : len(have) + min(3, request.max_depth)])
            tokens = [token for one in right for token in ((one + 1) % 64, one)]
            parents = [ROOT, ROOT, *(2 * (node // 2) + 1 for node in range(2 * len(right) - 2))]
            trees.append(DraftTree(tuple(tokens), tuple(parents[: len(tokens)])))
        return trees


def collect(
    drafter: Drafter, rule: str, params: SamplingParams, **sizes: int
) -> list[tuple[Request, list[StepOutput]]]:
    engine = small_engine(drafter, rule, **sizes)
    requests = [add(engine, prompt, params) for prompt in PROMPTS]
    found: dict[int, list[StepOutput]] = {request.id: [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            found[output.request.id].append(output)
    return [(request, found[request.id]) for request in requests]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", ["prophet", "wrong first", *DRAFTERS])
def test_each_token_is_scored_by_the_row_that_it_follows(name: str, temperature: float) -> None:
    params = SamplingParams(
        max_tokens=LENGTH, temperature=temperature, top_k=30, logit_bias={9: 1.0}, seed=1, logprobs=3
    )
    plain = run(small_engine(DRAFTERS["none"](), "gumbel"), PROMPTS, params)
    seers = {"prophet": ProphetDrafter, "wrong first": Wrong}
    drafter = seers[name]([request.tokens for request in plain]) if name in seers else DRAFTERS[name]()
    accepted, displaced = 0, 0
    for request, steps in collect(drafter, "gumbel", params):
        accepted += request.stats.accepted_tokens
        displaced += sum(step.path != tuple(range(len(step.path))) for step in steps)
        want = reference(request.tokens)[len(request.prompt) - 1 :]
        got = torch.tensor([value for step in steps for value in step.logprobs], dtype=torch.float64)
        assert torch.allclose(got, want[range(LENGTH), request.output], atol=ERROR)
        assert all(len(step.token_ids) == len(step.logprobs) == len(step.top_logprobs) for step in steps)
        tops = [top for step in steps for top in step.top_logprobs]
        for row, top in zip(want, tops, strict=True):
            values, tokens = row.topk(3)
            assert [token for token, _ in top] == tokens.tolist()
            assert [value for _, value in top] == pytest.approx(values.tolist(), abs=ERROR)
        assert request.logprobs == got.tolist()
        assert request.top_logprobs == tops
    if name in seers:
        assert accepted > 12 * len(PROMPTS)
    if name == "wrong first":
        assert displaced > 4 * len(PROMPTS)


def test_a_text_that_ends_within_an_accepted_draft_is_scored_up_to_its_end() -> None:
    [plain] = run(small_engine(DRAFTERS["none"]()), [PROMPTS[2]], SamplingParams(max_tokens=LENGTH))
    count = plain.output.index(plain.output[4]) + 1
    params = SamplingParams(max_tokens=LENGTH, stop_token_ids=[plain.output[4]], logprobs=1)
    prophet = ProphetDrafter([plain.tokens], num_draft_tokens=8)
    [request] = run(small_engine(prophet), [PROMPTS[2]], params)
    assert (request.finish_reason, request.output) == ("stop", plain.output[:count])
    assert sum(request.stats.accepted_at) > count  # more was accepted than the text took
    want = reference(request.tokens)[len(request.prompt) - 1 :][range(count), request.output]
    assert torch.allclose(torch.tensor(request.logprobs, dtype=torch.float64), want, atol=ERROR)
    assert [top[0][0] for top in request.top_logprobs] == request.output


@pytest.mark.parametrize("drafter", ["none", "ngram", "model tree", "early exit"])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"max_batch_tokens": 20, "max_num_seqs": 2}, {"num_blocks": 17}],
    ids=["whole prompts", "in pieces", "few blocks"],
)
def test_the_prompts_tokens_are_scored_once_however_they_are_read(drafter: str, sizes: dict[str, int]) -> None:
    params = SamplingParams(max_tokens=LENGTH, prompt_logprobs=2)
    unscored = run(small_engine(DRAFTERS[drafter]()), PROMPTS, SamplingParams(max_tokens=LENGTH))
    found = collect(DRAFTERS[drafter](), "auto", params, **sizes)
    if "num_blocks" in sizes:
        assert sum(request.stats.preemptions for request, _ in found) > 0
    for (request, _), other in zip(found, unscored, strict=True):
        assert request.output == other.output
        count = len(request.prompt) - 1
        want = reference(request.prompt) if count else torch.empty(0, 64, dtype=torch.float64)
        got = torch.tensor(request.prompt_logprobs, dtype=torch.float64)
        assert torch.allclose(got, want[range(count), request.prompt[1:]], atol=ERROR)
        assert [[token for token, _ in top] for top in request.prompt_top_logprobs] == want.topk(2).indices.tolist()
        assert request.logprobs == []


def test_a_prompt_that_loses_its_place_half_read_is_not_scored_twice() -> None:
    """An older request takes the blocks of the younger one while that is being read in pieces of two tokens."""
    engine = small_engine(DRAFTERS["none"](), num_blocks=15, max_batch_tokens=4, max_num_seqs=3)
    old = [add(engine, [1, 2, 3], SamplingParams(max_tokens=24)) for _ in range(2)]
    young = add(engine, list(range(10, 40)), SamplingParams(max_tokens=2, prompt_logprobs=0))
    halfway = 0
    while engine.has_work:
        before = young.stats.preemptions
        scored = len(young.prompt_logprobs)
        engine.step()
        halfway += young.stats.preemptions > before and 0 < scored < 29
    assert halfway > 0
    assert all(request.finish_reason == "length" for request in old)
    want = reference(young.prompt)[range(29), young.prompt[1:]]
    assert torch.allclose(torch.tensor(young.prompt_logprobs, dtype=torch.float64), want, atol=ERROR)
    assert young.prompt_top_logprobs == []
    drain(engine)


@pytest.mark.parametrize("wanted", ["none", "verified", "all"])
def test_a_scored_prompt_shows_drafters_no_more_rows_than_they_asked_for(wanted: str) -> None:
    """Rows of logits that an outcome has, beside the rows that were verified and those that ran."""
    seen: list[tuple[int, int, int]] = []

    class Looks(NonsenseDrafter):
        def bind(self, target: TargetHandle) -> Needs:
            return Needs(logits=wanted)  # type: ignore[arg-type]

        def observe(self, outcomes: Sequence[Outcome]) -> None:
            for one in outcomes:
                verified = len(one.tree) + 1 if one.tokens else 0
                seen.append((0 if one.logits is None else len(one.logits), verified, len(one.tail) + len(one.tree)))

    engine = small_engine(Looks(), max_batch_tokens=24, max_num_seqs=2)
    run(engine, PROMPTS, SamplingParams(max_tokens=6, prompt_logprobs=1))
    assert any(verified == 0 for _, verified, _ in seen)  # a prompt was read in pieces
    assert any(0 < verified < ran for _, verified, ran in seen)
    column = {"none": [0] * len(seen), "verified": [one[1] for one in seen], "all": [one[2] for one in seen]}[wanted]
    assert [rows for rows, _, _ in seen] == column


class Words:
    """Numbers for words."""

    chat_template = None

    def decode(self, ids: list[int], **_: bool) -> str:
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def generator() -> SpeculativeGenerator:
    return SpeculativeGenerator(LoadedModel(llama(0), Words(), ()), "ngram", config=EngineConfig(num_blocks=256))


def fields(generation: Generation) -> list[object]:
    return [generation.logprobs, generation.top_logprobs, generation.prompt_logprobs, generation.prompt_top_logprobs]


def test_a_generation_holds_what_was_asked_for(generator: SpeculativeGenerator) -> None:
    asked = [{}, {"logprobs": 0}, {"logprobs": 2}, {"prompt_logprobs": 0}, {"prompt_logprobs": 1}]
    params = [SamplingParams(max_tokens=4, **one) for one in asked]  # type: ignore[arg-type]
    found = generator.generate([[1, 2, 3]] * len(params), params)
    given = [[value is not None for value in fields(generation)] for generation in found]
    off = [False] * 4
    assert given == [off, [True, *off[1:]], [True, True, *off[2:]], [*off[:2], True, False], [*off[:2], True, True]]
    assert found[1].logprobs == found[2].logprobs
    assert found[3].prompt_logprobs == found[4].prompt_logprobs
    assert found[4].prompt_logprobs is not None
    assert found[4].prompt_logprobs[0] is None
    assert [len(top) for top in found[4].prompt_top_logprobs or []] == [0, 1, 1]


def test_samples_of_one_prompt_stand_together(generator: SpeculativeGenerator) -> None:
    warm = SamplingParams(max_tokens=6, temperature=1.0, seed=5)
    found = generator.generate([[1, 2], [3]], [replace(warm, n=3), warm])
    want = [
        generator.generate([1, 2], SamplingParams(max_tokens=6, temperature=1.0, seed=seed))[0] for seed in (5, 6, 7)
    ]
    assert [one.token_ids for one in found[:3]] == [one.token_ids for one in want]
    assert [one.seed for one in found] == [5, 6, 7, 5]
    assert len({tuple(one.token_ids) for one in want}) == 3
    assert found[3].token_ids == generator.generate([3], warm)[0].token_ids
    refused = generator.generate([[999], [3]], SamplingParams(n=2, temperature=1.0, max_tokens=2), on_error="return")
    assert [one.finish_reason for one in refused] == ["error", "error", "length", "length"]
