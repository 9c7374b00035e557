"""A drafter's life: it is told of every pass, once; and whatever it does wrong costs a draft and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from specdec import (
    ConfigError,
    Drafter,
    DraftRequest,
    DraftTree,
    Engine,
    EngineConfig,
    Needs,
    Outcome,
    SamplingParams,
)
from specdec.drafters.none import NoDrafter
from specdec.engine.outputs import StepOutput
from specdec.errors import InvalidRequestError
from specdec.models.native import NativeModel
from specdec.policy.base import Ask, Choice, Draft, Drafted, Load, Pick, Policy
from specdec.stats import NOBODY, DecodingStats
from specdec.testing import OracleDrafter, PoisonDrafter, RecordingDrafter
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, add, drain, outputs, run, small_engine
from tests.tiny import VOCAB_SIZE, llama, llama_module

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [7, 7, 7, 7]]
LENGTH = 24
GREEDY = SamplingParams(max_tokens=LENGTH)
INNER: dict[str, Callable[[], Drafter | None]] = {
    "nothing": lambda: None,
    "ngram tree": DRAFTERS["ngram tree"],
    "model": DRAFTERS["model"],
    "poison": PoisonDrafter,
    "oracle": OracleDrafter,
}


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return outputs(run(small_engine(NoDrafter()), PROMPTS, GREEDY))


def check_record(drafter: RecordingDrafter, request_id: int, tokens: list[int], prompt: int) -> None:
    """Every row once and in order, but for those that were found in the cache; what was emitted is the text; one end,
    with all of it."""
    cached = tokens[: drafter.outcomes[request_id][0].start]
    emitted: list[int] = []
    for outcome in drafter.outcomes[request_id]:
        assert outcome.start == len(cached)
        assert outcome.seconds > 0
        assert bool(outcome.tokens) == (outcome.start + len(outcome.tail) >= prompt)
        assert list(outcome.tokens[: len(outcome.path)]) == [outcome.tree.tokens[node] for node in outcome.path]
        cached += outcome.cached
        emitted += outcome.tokens
    assert drafter.ended[request_id] == tokens
    assert tokens[: len(cached)] == cached
    assert len(cached) in (len(tokens) - 1, len(tokens))  # the last token has run if it was drafted
    assert emitted == tokens[len(tokens) - len(emitted) :]


@pytest.mark.parametrize("sizes", [{}, {"max_num_seqs": 2, "max_batch_tokens": 28}, {"num_blocks": 18}], ids=str)
@pytest.mark.parametrize("inner", INNER)
def test_every_pass_of_every_request_is_told_once(inner: str, sizes: dict[str, int], plain: list[list[int]]) -> None:
    drafter = RecordingDrafter(INNER[inner]())
    engine = small_engine(drafter, **sizes)
    requests = run(engine, PROMPTS, GREEDY)
    assert outputs(requests) == plain
    preempted = sum(request.stats.preemptions for request in requests)
    assert len(drafter.forgotten) == preempted
    assert ("num_blocks" in sizes) == (preempted > 0)
    assert engine.drafting.faults == {}
    for request in requests:
        # A request that lost its place begins anew: its prompt is all of its text so far.
        began = len(request.prompt) if request.id not in drafter.forgotten else 0
        assert request.id in drafter.forgotten or drafter.outcomes[request.id][0].start == 0
        check_record(drafter, request.id, request.tokens, began)


def test_aborted_and_failed_requests_end_too() -> None:
    drafter = RecordingDrafter(PoisonDrafter())
    engine = small_engine(drafter)
    banned = SamplingParams(bad_words=[[a, b] for a in range(VOCAB_SIZE) for b in range(VOCAB_SIZE) if a != 5])
    first, second, third = (add(engine, PROMPTS[0], params) for params in (GREEDY, GREEDY, banned))
    waiting = add(engine, PROMPTS[1], GREEDY)
    engine.abort(waiting)
    engine.step()
    engine.abort(second)
    drain(engine)
    assert third.error is not None
    assert drafter.ended == {request.id: request.tokens for request in (first, second, third, waiting)}


@pytest.mark.parametrize("end", ["eos", "stop", "length"])
def test_what_a_request_cuts_off_is_neither_told_nor_cached(end: str, plain: list[list[int]]) -> None:
    """The cache may hold only tokens that were emitted: others would be shared with requests of the same beginning."""
    text = PROMPTS[2] + plain[2]
    drafter = RecordingDrafter(ProphetDrafter([text], num_draft_tokens=8))
    eos = plain[2][3]
    engine = Engine(
        llama(0), drafter, config=EngineConfig(block_size=4, num_blocks=64), eos=[eos] if end == "eos" else []
    )
    if end == "stop":
        engine._intake._tokenizer = type("T", (), {"decode": lambda self, ids, **_: "".join(f"<{i}>" for i in ids)})()
    params = {
        "eos": GREEDY,
        "stop": replace(GREEDY, stop=(f"<{eos}>",)),
        "length": replace(GREEDY, max_tokens=plain[2].index(eos) + 1),
    }[end]
    lengths: list[tuple[int, int]] = []
    finish = engine.scheduler.finish

    def watched(request: object) -> None:
        lengths.append((engine.cache.length(request.id), len(request.tokens)))  # type: ignore[attr-defined]
        finish(request)  # type: ignore[arg-type]

    engine.scheduler.finish = watched  # type: ignore[method-assign, assignment]
    [request] = run(engine, [PROMPTS[2]], params)
    assert request.output == plain[2][: plain[2].index(eos) + 1]
    [(cached, committed)] = lengths
    assert cached <= committed
    assert (
        drafter.outcomes[request.id][-1].cached
        == request.tokens[cached - len(drafter.outcomes[request.id][-1].cached) : cached]
    )
    check_record(drafter, request.id, request.tokens, len(request.prompt))


def test_an_oracle_gains_one_token_more_than_it_drafts(plain: list[list[int]]) -> None:
    """Through chunks, batches, trees and preemption, greedy and sampled."""
    for branches, sizes in (
        (1, {}),
        (3, {}),
        (1, {"max_num_seqs": 2, "max_batch_tokens": 28}),
        (1, {"num_blocks": 18}),
    ):
        requests = run(small_engine(OracleDrafter(4, branches), **sizes), PROMPTS, replace(GREEDY, max_tokens=25))
        assert [request.output[:LENGTH] for request in requests] == plain
        for request in requests:
            assert (request.stats.mean_accepted_length, request.stats.passes) == (5.0, 5)
    for rule in ("gumbel", "token", "block"):
        warm = [SamplingParams(max_tokens=25, temperature=1.0, seed=seed) for seed in range(4)]
        requests = run(small_engine(OracleDrafter(4), rule), PROMPTS, warm)
        assert {request.stats.mean_accepted_length for request in requests} == {5.0}


class Faulty(NonsenseDrafter):
    """Goes wrong for requests that hold a certain token."""

    name = "faulty"

    def __init__(self, fault: str, token: int) -> None:
        super().__init__()
        self.fault, self.token = fault, token
        self.deterministic = "q " not in fault and "in q" not in fault

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = super().propose(requests)
        for index, request in enumerate(requests):
            if self.token in request.tokens:
                trees[index] = self.wrong(request, trees[index])
        return trees[:-1] if self.fault == "one too few" else trees

    def wrong(self, request: DraftRequest, tree: DraftTree) -> DraftTree:
        q = torch.full((len(tree), VOCAB_SIZE), 1 / VOCAB_SIZE)
        match self.fault:
            case "raises":
                raise RuntimeError("no draft today")
            case "too deep":
                return DraftTree.chain(range(request.max_depth + 1))
            case "too many nodes":
                return DraftTree(tuple(range(9)), (-1,) * 9)
            case "beyond the vocabulary":
                return DraftTree.chain([VOCAB_SIZE])
            case "below the vocabulary":
                return DraftTree.chain([-1])
            case "NaN in q":
                q[0, 3] = float("nan")
            case "q without mass":
                q[-1] = 0.0
            case "q too narrow":
                q = q[:, :-1]
            case "a q after all":
                self.deterministic = True
                return DraftTree(tree.tokens, tree.parents, q)
            case "no tree":
                return None  # type: ignore[return-value]
        return DraftTree(tree.tokens, tree.parents, q) if not self.deterministic else tree

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        if self.fault == "raises in observe" and any(self.token in outcome.tail for outcome in outcomes):
            raise KeyError("lost")

    def forget(self, request_id: int) -> None:
        if self.fault == "raises in forget":
            raise KeyError("lost")

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        if self.fault == "raises in end":
            raise KeyError("lost")


FAULTS = ("raises", "too deep", "too many nodes", "beyond the vocabulary", "below the vocabulary", "NaN in q",
          "q without mass", "q too narrow", "a q after all", "no tree", "one too few", "raises in observe",
          "raises in forget",
          "raises in end")  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_drafters_error_costs_a_draft_and_one_warning(
    fault: str, plain: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    drafter = Faulty(fault, token=39)
    engine = small_engine(drafter, num_blocks=18)
    with caplog.at_level(logging.WARNING, logger="specdec"):
        requests = run(engine, PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert all(request.finish_reason == "length" for request in requests)
    assert set(engine.drafting.faults) == {"faulty"}
    [warning] = caplog.records
    assert "'faulty'" in warning.getMessage()
    if fault not in ("one too few", "raises in observe", "raises in forget", "raises in end"):
        neighbour, bad = requests[0], requests[2]
        assert (neighbour.stats.drafted_tokens > 0, bad.stats.drafted_tokens) == (True, 0)


@pytest.mark.parametrize("fault", ["NaN in q", "q without mass", "beyond the vocabulary"])
def test_sampled_requests_survive_too(fault: str) -> None:
    warm = [SamplingParams(max_tokens=LENGTH, temperature=1.0, seed=seed) for seed in range(4)]
    requests = run(small_engine(Faulty(fault, token=39), "token"), PROMPTS, warm)
    assert [len(request.output) for request in requests] == [LENGTH] * 4


def test_a_drafter_that_lost_track_of_a_request_is_asked_for_it_no_more(plain: list[list[int]]) -> None:
    drafter = Faulty("raises in observe", token=39)
    [bad] = run(small_engine(drafter), [PROMPTS[2]], GREEDY)
    assert (bad.output, bad.stats.drafted_tokens) == (plain[2], 5)  # the one before it failed
    good = run(small_engine(drafter), PROMPTS[:2], GREEDY)
    assert all(request.stats.drafted_tokens > 50 for request in good)


def test_what_is_asked_for_is_told_and_nothing_else() -> None:
    """Logits of the rows that were asked for, against the plain module."""
    module = llama_module(0)
    for logits in ("none", "verified", "all"):
        drafter = RecordingDrafter(PoisonDrafter(), Needs(logits=logits))  # type: ignore[arg-type]
        [request] = run(small_engine(drafter, max_num_seqs=4, max_batch_tokens=60), [PROMPTS[2]], GREEDY)
        for outcome in drafter.outcomes[request.id]:
            assert outcome.hidden is None
            rows = {"none": 0, "verified": len(outcome.tree) + 1, "all": len(outcome.tail) + len(outcome.tree)}[logits]
            if logits == "none":
                assert outcome.logits is None
                continue
            assert outcome.logits is not None
            assert len(outcome.logits) == rows
            last = outcome.logits[-1 - len(outcome.tree)]
            with torch.inference_mode():
                want = module(input_ids=torch.tensor([request.tokens[: outcome.start + len(outcome.tail)]])).logits[
                    0, -1
                ]
            assert float((last - want).abs().max()) < 1e-4


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("changes", [{}, {"temperature": 1.0, "seed": 1}, {"prompt_logprobs": 2}], ids=str)
def test_the_largest_logits_are_those_of_every_verified_row(native: bool, changes: dict[str, Any], others: int) -> None:
    """After the tail and after every node, accepted or not, whoever drafted; none of a piece of a prompt. Another
    drafter asks for all logits and for fewer of the largest."""
    module, target = llama_module(0), NativeModel(llama_module(0)) if native else llama(0)
    looks, other = RecordingDrafter(PoisonDrafter(), Needs(top=8)), RecordingDrafter(needs=Needs(logits="all", top=3))
    looks.name = "looks"  # type: ignore[misc]
    sizes = EngineConfig(block_size=4, num_blocks=64, max_batch_tokens=28, max_num_seqs=2)
    engine = Engine(target, [looks, other][: 1 + others], config=sizes)
    neighbour, request = (add(engine, prompt, replace(GREEDY, **changes)) for prompt in (PROMPTS[1], PROMPTS[2]))
    drain(engine)
    assert (engine.drafting.faults, neighbour.error, request.error) == ({}, None, None)
    assert any(len(outcome.tree) > len(outcome.path) for outcome in looks.outcomes[request.id])
    for outcome in looks.outcomes[request.id]:
        assert outcome.logits is None
        if not outcome.tokens:
            assert outcome.top is None
            continue
        assert outcome.top is not None
        committed, tree = request.tokens[: outcome.start + len(outcome.tail)], outcome.tree
        texts = [committed, *([*committed, *tree.prefix(node)] for node in range(len(tree)))]
        with torch.inference_mode():
            want = [module(input_ids=torch.tensor([text])).logits[0, -1].topk(8).indices.tolist() for text in texts]
        assert outcome.top.tolist() == want
    for outcome in other.outcomes.get(request.id, []):
        assert outcome.logits is not None
        assert outcome.top is None if not outcome.tokens else outcome.top.shape == (len(outcome.tree) + 1, 3)


class Turns(Policy):
    """Takes the candidates in turns, each request on its own."""

    name = "turns"

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.seen: list[str] = []

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        choices = []
        for ask in asks:
            step = self.steps[ask.request_id] = self.steps.get(ask.request_id, ask.request_id) + 1
            candidate = ask.candidates[step % len(ask.candidates)]
            choices.append([Choice(candidate.drafter, candidate.depth)])
            self.seen.append(candidate.drafter)
        return choices


@pytest.mark.parametrize("sizes", [{}, {"num_blocks": 18}], ids=str)
def test_two_drafters_take_turns_and_both_keep_their_state(sizes: dict[str, int], plain: list[list[int]]) -> None:
    """The oracle is right in every one of its own turns, though the other one's drafts are verified in between."""
    recording, policy = RecordingDrafter(OracleDrafter(4)), Turns()
    engine = small_engine([recording, PoisonDrafter()], policy=policy, **sizes)
    requests = run(engine, PROMPTS, GREEDY)
    assert outputs(requests) == plain
    assert {"recording", "poison"} == set(policy.seen)
    own = 0
    for request in requests:
        for outcome in recording.outcomes[request.id]:
            if outcome.drafter == "recording" and len(outcome.tree):
                own += 1
                assert len(outcome.path) == len(outcome.tree)
    assert own > 8
    assert engine.drafting.faults == {}


def test_every_step_says_who_drafted_and_the_counts_of_each_drafter_are_those_of_its_steps() -> None:
    """Turns of one that is always right, one that is always wrong, and one that never has anything to say."""
    engine = small_engine([OracleDrafter(4), PoisonDrafter(), SilentDrafter()], policy=Turns())
    requests = [add(engine, prompt, GREEDY) for prompt in PROMPTS]
    steps: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            steps.setdefault(output.drafter, []).append(output)
    assert steps.keys() == {"oracle", "poison", NOBODY}
    total = DecodingStats.total(request.stats for request in requests)
    assert {one.name: one.steps for one in total.by_drafter if one.steps} == {n: len(o) for n, o in steps.items()}
    for name, outputs_of in steps.items():
        entry = total.of(name)
        assert entry.drafted_tokens == sum(len(output.draft) for output in outputs_of)
        assert entry.accepted_tokens == sum(len(output.path) for output in outputs_of)
        assert entry.output_tokens == sum(len(output.token_ids) for output in outputs_of)
    assert total.of("oracle").accepted_tokens == total.of("oracle").drafted_tokens > 8
    assert (total.of("poison").accepted_tokens, total.of(NOBODY).drafted_tokens) == (0, 0)
    seconds = {one.name: one.seconds for one in total.by_drafter}
    assert min(seconds["oracle"], seconds["poison"], seconds["silent"]) > 0 == seconds[NOBODY]
    assert sum(seconds.values()) < total.draft_seconds


class SilentDrafter(Drafter):
    name = "silent"

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return [DraftTree() for _ in requests]


def test_a_request_may_name_its_drafter(plain: list[list[int]]) -> None:
    engine = small_engine([NonsenseDrafter(), OracleDrafter(4)])
    params = [replace(GREEDY, drafter=name) for name in ("oracle", "nonsense", None, "oracle")]
    requests = run(engine, PROMPTS, params)
    assert outputs(requests) == plain
    rates = [request.stats.acceptance_rate for request in requests]
    assert (rates[0], rates[3]) == (1.0, 1.0)
    assert max(rates[1:3]) < 0.5  # without a name it is the first one
    with pytest.raises(ConfigError, match=r"has no drafter 'ngram'\. Valid names: nonsense, oracle"):
        engine.make_request([1], replace(GREEDY, drafter="ngram"))


def test_drafters_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="distinct names"):
        small_engine([PoisonDrafter(), PoisonDrafter(1)])
    with pytest.raises(ConfigError, match="there must be one"):
        small_engine([])


class SharedDrafter(NonsenseDrafter):
    name, shares = "shared", True


def test_a_drafter_that_shares_is_judged_by_rules_whose_text_does_not_depend_on_drafts() -> None:
    warm = SamplingParams(temperature=1.0)
    assert small_engine(SharedDrafter()).make_request([1], warm).rule.name == "gumbel"
    assert small_engine(SharedDrafter(), "token").make_request([1], GREEDY).rule.name == "greedy"
    with pytest.raises(ConfigError, match="gumbel"):
        small_engine(SharedDrafter(), "token").make_request([1], warm)


class Declines(Policy):
    """Asks every drafter, and verifies nothing; keeps what it is told."""

    name = "declines"

    def __init__(self) -> None:
        self.weighed = 0
        self.told: list[int] = []

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        return [[Choice(one.drafter, one.depth) for one in ask.candidates] for ask in asks]

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Draft | Choice | None]:
        self.weighed += len(drafted)
        return [None for _ in drafted]

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        assert not len(draft.tree)
        self.told += tokens


def test_a_policy_is_told_what_came_of_drafts_that_were_not_verified(plain: list[list[int]]) -> None:
    """Of drafters that are not told themselves: else an estimate that is too low, or too high, would stay for ever."""
    policy = Declines()
    assert outputs(run(small_engine(NonsenseDrafter(), policy=policy), PROMPTS[:1], GREEDY)) == plain[:1]
    assert policy.weighed == LENGTH - 1  # for the last token nothing is drafted
    assert policy.told == plain[0][:-1]


class Asked(Drafter):
    """Keeps what it was asked, and drafts nothing."""

    name = "asked"

    def __init__(self) -> None:
        super().__init__(2)
        self.requests: list[DraftRequest] = []

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        self.requests += requests
        return [DraftTree()] * len(requests)


def test_a_drafter_is_told_what_may_be_shared_and_what_is_expected() -> None:
    drafter = Asked()
    params = SamplingParams(max_tokens=3, cache_salt="team a", store=False, prediction=[4, 5, 6])
    run(small_engine(drafter), [[1, 2], [3]], [params, SamplingParams(max_tokens=3)])
    asked = {one.request_id: (one.salt, one.store, one.prediction) for one in drafter.requests}
    assert list(asked.values()) == [("team a", False, (4, 5, 6)), ("", True, ())]


def test_a_prediction_outside_the_vocabulary_or_in_words_without_a_tokenizer_is_refused() -> None:
    engine = small_engine(Asked())
    with pytest.raises(InvalidRequestError, match=r"Token id 99999 of prediction .*Use the target's tokenizer"):
        engine.make_request([1], SamplingParams(prediction=[1, 99999]))
    with pytest.raises(InvalidRequestError, match=r"prediction is a text.*Give token ids"):
        engine.make_request([1], SamplingParams(prediction="yes"))
