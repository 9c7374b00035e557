"""What requests find of their texts in the cache changes neither a text, nor a draft, nor a bit of what is cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest
import torch

from specdec import Drafter, Engine, EngineConfig, Needs, SamplingParams
from specdec.cache.runs import Node
from specdec.drafters.base import TargetHandle
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.lookahead import LookaheadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.quantized_self import QuantizedSelfDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.engine.request import Request
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.testing.conformance import Drafts
from specdec.testing.tiny import llama_module
from tests.blockheads import random_head
from tests.cache.layouts import Features
from tests.engines import add, drain, outputs, run
from tests.medusaheads import random_medusa
from tests.pairheads import random_pairs

SIZES = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128, max_num_seqs=4)
HELD = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
DRAFTERS: dict[str, Callable[[CausalLM], Drafter]] = {
    "none": lambda target: NoDrafter(),
    "ngram": lambda target: NgramDrafter(num_draft_tokens=4, min_match=1),
    "suffix": lambda target: SuffixDrafter(),
    "model": lambda target: ModelDrafter(target_of("float32", seed=1), num_draft_tokens=3, branches=2),
    "head": lambda target: HeadDrafter(random_head(target), branches=2),
    "pairs": lambda target: HeadDrafter(random_pairs(target), num_draft_tokens=6, branches=2),
    "medusa": lambda target: HeadDrafter(random_medusa(target)),
    "quantized self": lambda target: QuantizedSelfDrafter(num_draft_tokens=3),
    "early exit": lambda target: EarlyExitDrafter(num_draft_tokens=3, num_layers=1),
    "recycling": lambda target: RecyclingDrafter(),
    "lookahead": lambda target: LookaheadDrafter(),
    "cascade": lambda target: CascadeDrafter([HeadDrafter(random_head(target)), SuffixDrafter()]),
}
OPENING = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
PROMPTS = [[*OPENING, 8, 9], [*OPENING, 8, 9, 7, 9, 3], OPENING[:6], [*range(20, 40)], [*OPENING[:9], 50], [7]]
PARAMS = [
    replace(SamplingParams(max_tokens=12, temperature=0.9 * (index % 2)), seed=index) for index in range(len(PROMPTS))
]  # fmt: skip


@cache
def target_of(kind: str, seed: int = 0) -> NativeModel:
    return NativeModel(llama_module(seed), f"tiny-{seed}", kind, HELD[kind])


def engine_of(kind: str, drafter: Drafter, **sizes: Any) -> Engine:
    return Engine(target_of(kind), drafter, config=replace(SIZES, **sizes))


def cold(kind: str, name: str) -> tuple[list[list[int]], Drafts]:
    """Texts and drafts of requests that are alone and find nothing."""
    drafter = DRAFTERS[name](target_of(kind))
    drafts = Drafts(drafter)
    return outputs(run(engine_of(kind, drafter, prefix_cache=False, max_num_seqs=1), PROMPTS, PARAMS)), drafts


def most_rows(engine: Engine) -> int:
    requests = [engine.make_request(prompt, one) for prompt, one in zip(PROMPTS, PARAMS, strict=True)]
    return max(engine.scheduler._limits.most_rows(request) for request in requests)


QUICK = ("none", "ngram", "suffix", "model", "head", "pairs", "quantized self")
CASES = [
    *(pytest.param("float32", name, marks=() if name in QUICK else pytest.mark.slow) for name in DRAFTERS),
    *(pytest.param(kind, name, marks=pytest.mark.slow) for kind in ("bfloat16", "int8") for name in DRAFTERS),
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_cold_is_warm_in_texts_and_drafts(kind: str, name: str) -> None:
    """Every prompt twice and more, greedy and drawn, alone, in a batch, and where blocks are so few that requests lose
    theirs: texts and drafts are those of requests that find nothing, bit for bit."""
    texts, drafts = cold(kind, name)
    tight = -(-most_rows(engine_of(kind, DRAFTERS[name](target_of(kind)))) // SIZES.block_size)
    for sizes in ({"max_num_seqs": 1}, {}, {"num_blocks": tight}):
        drafter = DRAFTERS[name](target_of(kind))
        warm = Drafts(drafter)
        engine = engine_of(kind, drafter, **sizes)
        for turn in range(2):
            requests = run(engine, PROMPTS, PARAMS)
            assert outputs(requests) == texts
            if turn and "num_blocks" not in sizes:
                assert [one.stats.cached_tokens for one in requests] == [len(prompt) - 1 for prompt in PROMPTS]
        assert not engine.drafting.faults
        if name != "none" and not drafter.shares:
            drafts.agree(warm)
        if "num_blocks" in sizes:
            assert engine.cache.prefixes.evicted_tokens
            assert sum(one.stats.preemptions for one in requests)
        check_bits(engine, name, kind)


def check_bits(engine: Engine, name: str, kind: str) -> None:
    """Every path of the tree holds in every pool what a fresh prefill writes there."""
    tree, size = engine.cache.prefixes, engine.cache.block_size
    fresh = engine_of(kind, DRAFTERS[name](target_of(kind)), prefix_cache=False, max_num_seqs=1)
    for leaf in [node for node in tree.nodes() if not node.children]:
        request = add(fresh, [*text_of(leaf), 0], SamplingParams(max_tokens=12))  # more than one step gives
        while not request.output:
            fresh.step()
        for node in leaf.path():
            slots = slots_of(node, size)
            for place, (ours, theirs) in enumerate(zip(engine.cache.pools, fresh.cache.pools, strict=True)):
                n = node.end if place == 0 else node.filled.get(ours, 0)
                assert n <= fresh.cache.filled(request.id, theirs)
                for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
                    first = int(name == "pairs" and place == 1)  # the first token has no pair
                    assert torch.equal(mine[slots[first:n]], other[fresh.cache.slots(request.id)[first:n]])
        fresh.abort(request)


def text_of(node: Node) -> list[int]:
    return [token for one in node.path() for token in one.tokens]


def slots_of(node: Node, block_size: int) -> torch.Tensor:
    blocks: list[int] = []
    for one in node.path():
        blocks[one.start // block_size :] = one.blocks
    return (torch.tensor(blocks)[:, None] * block_size + torch.arange(block_size)).flatten()


@pytest.mark.parametrize("name", ["model", "pairs"])
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow)], ids=["few", "many"])
def test_random_lives_leave_bits_and_texts_as_they_are(name: str, seeds: range) -> None:
    """Requests that come, are aborted, preempted and forked, and a tree that is cut back, at random."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        engine = engine_of("float32", DRAFTERS[name](target_of("float32")), num_blocks=24, max_num_seqs=3)
        requests = live(engine, Random(seed), happened)
        happened["evicted"] += engine.cache.prefixes.evicted_tokens
        check_bits(engine, name, "float32")
        alone = engine_of("float32", DRAFTERS[name](target_of("float32")), prefix_cache=False, max_num_seqs=1)
        for request in requests:
            happened["found"] += request.stats.cached_tokens
            happened["preempted"] += request.stats.preemptions
            [same] = run(alone, [request.prompt], request.params)
            assert same.output[: len(request.output)] == request.output
            assert request.finish_reason == "aborted" or same.output == request.output
    assert min(happened[name] for name in ("found", "aborted", "preempted", "forked", "evicted")) > 0


def live(engine: Engine, draw: Random, happened: Counter[str]) -> list[Request]:
    """Sixty random events, and then what is left. Returns all requests."""
    requests: list[Request] = []
    for _ in range(60):
        scheduler = engine.scheduler
        running = list(scheduler.running)
        match draw.choice(("add", "step", "step", "step", "abort", "preempt", "fork", "evict")):
            case "add" if len(scheduler.live) < 5:
                prompt = [*OPENING[: draw.randint(1, 11)], *(draw.randrange(2) for _ in range(draw.randint(0, 6)))]
                params = SamplingParams(max_tokens=10, temperature=draw.choice((0.0, 0.8)), seed=draw.randrange(99))
                requests.append(add(engine, prompt, params))
            case "abort" if running and draw.random() < 0.4:
                engine.abort(draw.choice(running))
                happened["aborted"] += 1
            case "preempt" if running:
                scheduler._preempt(running[-1])
            case "fork" if running and len(running) < 3 and running[0].output:
                requests.append(engine.make_request(list(running[0].tokens), SamplingParams(max_tokens=8)))
                engine.cache.fork(running[0].id, requests[-1].id)
                scheduler.join(requests[-1])
                happened["forked"] += 1
            case "evict":
                engine.cache.prefixes.evict(min(engine.cache.num_free_blocks, draw.randint(1, 24)))
            case _:
                engine.step()
        engine.cache.check_integrity()
    drain(engine)
    return requests


def found(engine: Engine, prompt: Sequence[int], **params: Any) -> int:
    """Tokens that a request finds; it ends."""
    [request] = run(engine, [prompt], SamplingParams(max_tokens=2, **params))
    assert request.error is None
    return request.stats.cached_tokens


def test_salts_requests_and_engines_can_keep_to_themselves() -> None:
    prompt = [*range(10)]
    engine = engine_of("float32", NoDrafter())
    assert [found(engine, prompt, cache_salt=salt) for salt in (None, "a", "a", None, "b")] == [0, 0, 9, 9, 0]

    engine = engine_of("float32", NoDrafter())
    assert found(engine, prompt, store=False) == 0
    assert found(engine, prompt, prefix_cache=False) == 0
    assert found(engine, prompt) == 0  # neither of them left anything
    assert [found(engine, prompt, store=False), found(engine, prompt, prefix_cache=False)] == [9, 0]

    engine = engine_of("float32", NoDrafter(), prefix_cache=False)
    assert [found(engine, prompt), found(engine, prompt)] == [0, 0]
    assert not list(engine.cache.prefixes.nodes())


def test_a_prompt_that_is_scored_runs_as_a_whole() -> None:
    """What is found has no logits. The scores are those of a request that finds nothing."""
    engine, params = engine_of("float32", NoDrafter()), SamplingParams(max_tokens=3, prompt_logprobs=0)
    first, second = (run(engine, [OPENING], params)[0] for _ in range(2))
    assert first.prompt_logprobs == second.prompt_logprobs
    assert len(second.prompt_logprobs) == len(OPENING) - 1
    assert (second.stats.cached_tokens, found(engine, OPENING)) == (0, len(OPENING) - 1)


def test_a_failed_request_leaves_nothing() -> None:
    engine = engine_of("float32", NoDrafter())
    request = add(engine, OPENING, SamplingParams(max_tokens=9))
    engine.step()
    engine.cache.prefixes.evict(SIZES.num_blocks or 0)
    engine.abort(request, RuntimeError("lost"))
    assert found(engine, OPENING) == 0


def test_a_request_begins_with_what_one_that_still_runs_has_read() -> None:
    engine = engine_of("float32", NoDrafter())
    long = add(engine, [*range(30)], SamplingParams(max_tokens=20))
    engine.step()
    second = add(engine, [*range(29), 60], SamplingParams(max_tokens=2))
    engine.step()
    assert not long.finished
    assert second.stats.cached_tokens == 29
    drain(engine)


def rows_run(engine: Engine) -> list[int]:
    """Rows of prompts and texts in each pass from now on, without drafts."""
    counts: list[int] = []
    schedule = engine.scheduler.schedule

    def counted() -> Any:
        plan = schedule()
        counts.append(sum(len(part.tail) for part in plan))
        return plan

    engine.scheduler.schedule = counted  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize("name", ["none", "pairs"])
def test_of_requests_that_come_together_one_reads_what_all_begin_with(name: str) -> None:
    """Eighty tokens once, in one piece or in pieces; but for the last 8 of them, which are not worth waiting for."""
    prompts = [[*range(40), *range(40), last] for last in (50, 51, 52)]
    for pieces, known in ((128, 80), (32, 80), (36, 72)):
        engine = engine_of("float32", DRAFTERS[name](target_of("float32")), max_batch_tokens=pieces, max_num_seqs=2)
        counts = rows_run(engine)
        requests = run(engine, prompts, SamplingParams(max_tokens=2, num_draft_tokens=0))
        assert [one.stats.cached_tokens for one in requests] == [0, known, 80]
        assert sum(counts) == 81 + (81 - known) + 1 + 3  # each runs the first token that it says


@pytest.mark.parametrize(
    "apart", [{"cache_salt": "a"}, {"prefix_cache": False}, {"store": False}, {"prompt_logprobs": 0}], ids=str
)
def test_nobody_waits_for_what_will_not_be_there(apart: dict[str, Any]) -> None:
    """All begin in the first pass; what one of them keeps to itself, the other does not wait for."""
    engine = engine_of("float32", NoDrafter())
    alike = [*range(40)]
    first = add(engine, alike, SamplingParams(max_tokens=3, **apart))
    second = add(engine, alike, SamplingParams(max_tokens=3, **(apart if "prompt_logprobs" in apart else {})))
    engine.step()
    assert (len(first.output), len(second.output)) == (1, 1)
    drain(engine)
    assert outputs([first]) == outputs([second])


def test_what_a_preempted_request_had_is_found_again() -> None:
    """Its rows run once: it goes on with its last token."""
    engine = engine_of("float32", NoDrafter())
    request = add(engine, [*range(30)], SamplingParams(max_tokens=20))
    for _ in range(5):
        engine.step()
    engine.scheduler._preempt(request)
    [part] = engine.scheduler.schedule()
    assert (part.tail, part.decodes) == (request.tokens[-1:], True)


def test_what_is_kept_goes_before_a_request_does() -> None:
    """Blocks for one request and a half: an earlier text fills them, and nobody is preempted for it."""
    engine = engine_of("float32", NoDrafter(), num_blocks=12)
    run(engine, [[*range(36)]], SamplingParams(max_tokens=4))
    assert engine.cache._allocator.num_idle >= 9
    [request] = run(engine, [[*range(20, 50)]], SamplingParams(max_tokens=12))
    assert request.stats.preemptions == 0
    assert engine.cache.prefixes.evicted_tokens


def test_a_request_that_just_fits_gives_up_a_part_of_a_block() -> None:
    """A part of a block is copied, and is there twice until then: where the request needs every block, it begins with
    the whole ones alone."""
    engine = engine_of("float32", NoDrafter(), num_blocks=5)
    prompt, params = [*range(10)], SamplingParams(max_tokens=10)
    [first] = run(engine, [prompt], replace(params, max_tokens=2))
    [second] = run(engine, [[*prompt, *first.output[:1], *range(8)]], replace(params, max_tokens=1))
    assert (first.stats.cached_tokens, second.stats.cached_tokens) == (0, 8)


def test_a_request_that_just_fits_takes_back_what_it_has_left() -> None:
    """It leaves a part of a block when its prompt is read, and needs every block for itself: it is not copied, nobody
    is preempted, and the text is that of an engine without a cache."""
    prompt, params = [*range(10)], SamplingParams(max_tokens=10)
    [warm] = run(engine_of("float32", NoDrafter(), num_blocks=5), [prompt], params)
    [cold] = run(engine_of("float32", NoDrafter(), num_blocks=5, prefix_cache=False), [prompt], params)
    assert (warm.stats.preemptions, warm.output) == (0, cold.output)


def test_each_token_that_can_be_found_is_found() -> None:
    """One after the other in a roomy cache, requests run what no earlier one has: counted by brute force."""
    draw, engine, said = Random(1), engine_of("float32", NoDrafter(), num_blocks=1024), list[list[int]]()
    for _ in range(40):
        prompt = [draw.randrange(2) for _ in range(draw.randint(1, 12))]
        [request] = run(engine, [prompt], SamplingParams(max_tokens=3))
        best = max((agreeing(prompt[:-1], other[:-1]) for other in said), default=0)
        assert request.stats.cached_tokens == best
        said.append(request.tokens)


def agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_what_a_head_was_not_told_is_not_found() -> None:
    """The first request's hidden states were never told. The second one runs its whole prompt, though the target's
    entries are there, and waits for nobody; its drafts are those of a request that finds nothing."""
    drafter = DRAFTERS["head"](target_of("float32"))
    drafts, observe = Drafts(drafter), drafter.observe
    engine = engine_of("float32", drafter)
    drafter.observe = lambda outcomes: None  # type: ignore[method-assign]
    long = add(engine, [*range(40)], SamplingParams(max_tokens=30))
    for _ in range(4):
        engine.step()
    drafter.observe = observe  # type: ignore[method-assign]
    drafts.clear()
    second = add(engine, [*range(40)], SamplingParams(max_tokens=12))
    engine.step()
    assert second in engine.scheduler.running
    drain(engine)
    assert (second.stats.cached_tokens, second.output) == (0, long.output[:12])

    drafter = DRAFTERS["head"](target_of("float32"))
    alone = Drafts(drafter)
    run(engine_of("float32", drafter, prefix_cache=False), [[*range(40)]], SamplingParams(max_tokens=12))
    assert any(map(len, alone.values()))
    alone.agree(drafts)
    assert found(engine, [*range(40)]) == 39  # what the second one has left is whole


class Stateless(NoDrafter):
    """Asks for hidden states, and keeps none in a pool."""

    name = "stateless"

    def bind(self, target: TargetHandle) -> Needs:
        return Needs(hidden=(0,))


def test_beside_a_drafter_that_keeps_its_states_elsewhere_nothing_is_found() -> None:
    engine = engine_of("float32", Stateless())
    assert [found(engine, OPENING), found(engine, OPENING)] == [0, 0]


def test_drafters_together_are_told_what_each_is() -> None:
    one, two = Features(1), Features(2)
    model, head = Needs(pools=(one,)), Needs(hidden=(0,), pools=(two, one), told=(1,))
    assert [each.told_pools for each in (model, head, replace(head, told=None))] == [(), (1,), (0, 1)]
    assert Needs.together([model, head, replace(head, told=None)]).told_pools == (2, 3, 4)
    assert Needs.together([head, Needs(logits="all")]).keeps_no_state


def test_a_sliding_window_sees_what_was_found() -> None:
    """Its rows beyond the window are cached like all others: a hit holds the whole window."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    target = NativeModel(MistralForCausalLM(config).eval(), "windowed")
    prompt, params = [*range(30)], SamplingParams(max_tokens=12)
    engine = Engine(target, NoDrafter(), config=SIZES)
    [first] = run(engine, [prompt], params)
    [second] = run(engine, [prompt], params)
    assert second.stats.cached_tokens == 29
    assert second.output == first.output


@pytest.mark.slow
def test_nothing_grows_over_ten_thousand_requests() -> None:
    """Nodes, spaces and tokens stay within the cache, and no request waits for ever."""
    draw = Random(0)
    engine = engine_of("float32", DRAFTERS["model"](target_of("float32")), num_blocks=64)
    tree = engine.cache.prefixes
    for number in range(10_000 // 4):
        prompts = [[draw.randrange(3) for _ in range(draw.randint(1, 12))] for _ in range(4)]
        salt = None if number % 3 else str(number)
        for prompt in prompts:
            add(engine, prompt, SamplingParams(max_tokens=2, cache_salt=salt))
        while engine.has_work:
            engine.step()
        if number % 100 == 0:
            engine.cache.check_integrity()
            assert sum(len(node.tokens) for node in tree.nodes()) <= 64 * 4
            assert len(tree._roots) <= 64
    assert engine.cache.num_free_blocks == 64
