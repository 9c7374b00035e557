"""What a request needs is said once: whoever is let in is served, in a bounded number of steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from specdec import (
    ConfigError,
    Drafter,
    DraftRequest,
    DraftTree,
    Engine,
    EngineConfig,
    EngineLoop,
    OutOfBlocksError,
    SamplingParams,
    SpecdecError,
)
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Needs
from specdec.drafters.ngram import NgramDrafter
from specdec.engine.config import DEFAULT_KV_BYTES
from specdec.engine.limits import DraftLimits
from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduler
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.greedy import GreedyRule
from specdec.verify.tree import TreeShape
from tests.engines import DRAFTERS, NonsenseDrafter, drain, small_engine
from tests.tiny import llama

VOCAB = 100


class Shaped(Drafter):
    """Asks for room and never drafts."""

    name = "shaped"

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return [DraftTree() for _ in requests]


@dataclass(frozen=True)
class Sizes:
    """A scheduler's and its requests'."""

    shape: TreeShape
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_batch_tokens: int
    whole_prefix: bool
    context: int


def random_sizes(draw: random.Random) -> Sizes:
    shape = draw.choice([TreeShape.chain(draw.randint(0, 6)), TreeShape.fork(draw.randint(1, 4), draw.randint(1, 4))])
    max_num_seqs = draw.randint(1, 4)
    least = max_num_seqs * (1 + len(shape))
    return Sizes(
        shape,
        block_size=draw.choice([1, 2, 3, 4, 7, 16]),
        num_blocks=draw.randint(1, 30),
        max_num_seqs=max_num_seqs,
        max_batch_tokens=least + draw.choice([0, 0, 1, 5, 40]),
        whole_prefix=draw.random() < 0.3,
        context=draw.randint(2, 60),
    )


def random_request(draw: random.Random, id: int, context: int) -> Request:
    prompt = [0] * draw.randint(1, context - 1)
    params = SamplingParams(
        max_tokens=draw.choice([1, 1, 2, 3, 20, 100]), num_draft_tokens=draw.choice([None, None, 0, 1, 3])
    )
    return Request(
        id, prompt, params, GreedyRule(), LogitsTransform(params, prompt, VOCAB), RandomSource(0), None, frozenset(),
        min(len(prompt) + params.max_tokens, context),
    )  # fmt: skip


def serve(
    scheduler: Scheduler,
    cache: PagedCache,
    draw: random.Random,
    bound: int,
    between: Callable[[], None] = lambda: None,
) -> int:
    """Carries passes out with random luck of the drafts; the steps that it took. No pass has more rows than it may, and
    whoever has nothing left to read takes part in each, unless it loses its place in the cache."""
    for step in range(bound):
        decoding = [one for one in scheduler.running if cache.length(one.id) == len(one.tokens) - 1]
        parts = scheduler.schedule()
        if not parts:
            return step
        cache.check_integrity()
        rows = [len(one.tail) + scheduler._limits.draft_rows(one.request) * one.decodes for one in parts]
        assert sum(rows) <= scheduler._max_batch_tokens
        took_part = [one.request for one in parts if one.decodes]
        assert all(one in took_part for one in decoding if one in scheduler.running)
        for part in parts:
            request = part.request
            cache.commit(request.id, len(part.tail))
            if not part.decodes:
                assert part.tail, "a part that reads nothing"
                continue
            gained = 1 + draw.randint(0, part.max_depth)
            cached = gained - 1
            cache.reserve(request.id, cached)
            cache.commit(request.id, cached)
            request.tokens.extend([0] * gained)
            assert len(request.tokens) <= request.max_length
            if len(request.tokens) == request.max_length:
                scheduler.finish(request)
        between()
    raise AssertionError(f"{[r.id for r in scheduler.live]} are still here after {bound} steps")


def test_whoever_is_let_in_is_served() -> None:
    """2000 random sizes, six requests each. In every step the oldest one reads a token of its text or gains one, so
    that all together take no more steps than they have tokens to read, once, and to gain."""
    accepted = preempted = crowded = tight = 0
    for seed in range(2000):
        draw = random.Random(seed)
        sizes = random_sizes(draw)
        drafter = Shaped(shape=sizes.shape)
        limits = DraftLimits([(drafter, Needs(whole_prefix=sizes.whole_prefix))])
        cache = PagedCache(KVLayout(1, 1, 1), sizes.num_blocks, sizes.block_size)
        scheduler = Scheduler(cache, limits, sizes.max_batch_tokens, sizes.max_num_seqs)
        bound = 1
        requests = []
        for id in range(6):
            request = random_request(draw, id, sizes.context)
            try:
                scheduler.check_fits(request)
            except OutOfBlocksError:
                continue
            requests.append(request)
            scheduler.add(request)
            bound += 2 * request.max_length
            tight += cache.blocks(limits.most_rows(request)) == sizes.num_blocks
        serve(scheduler, cache, draw, bound)
        assert cache.num_free_blocks == cache.num_blocks
        accepted += len(requests)
        preempted += sum(request.stats.preemptions for request in requests)
        crowded += len(requests) > sizes.max_num_seqs
    assert min(accepted, preempted, crowded, tight) > 100


@dataclass
class Forking:
    """Between two passes, at times, a fork of a request that has nothing left to read joins those that run."""

    scheduler: Scheduler
    cache: PagedCache
    draw: random.Random
    sizes: Sizes
    joined: list[Request] = field(default_factory=list)
    behind: int = 0
    """Those that stand behind a prompt that is still being read."""
    refused: int = 0

    def __call__(self) -> None:
        running = self.scheduler.running
        ready = [one for one in running if self.cache.length(one.id) == len(one.tokens) - 1]
        if not ready or len(self.joined) == 4 or self.draw.random() < 0.3:
            return
        parent = self.draw.choice(ready)
        child = random_request(self.draw, 4 + len(self.joined), self.sizes.context)
        child.prompt, child.tokens = list(parent.tokens), list(parent.tokens)
        child.max_length = parent.max_length
        self.cache.fork(parent.id, child.id)
        if len(running) < self.sizes.max_num_seqs:
            self.behind += len(ready) < len(running)
            self.scheduler.join(child)
            self.joined.append(child)
        else:
            with pytest.raises(SpecdecError, match=rf"Request {child.id} cannot join.*Raise it"):
                self.scheduler.join(child)
            self.cache.free(child.id)
            self.refused += 1


def test_whoever_joins_those_that_run_is_served_and_decodes_at_once() -> None:
    joined = behind = refused = 0
    for seed in range(600):
        draw = random.Random(seed)
        sizes = random_sizes(draw)
        limits = DraftLimits([(Shaped(shape=sizes.shape), Needs(whole_prefix=sizes.whole_prefix))])
        cache = PagedCache(KVLayout(1, 1, 1), 200, sizes.block_size)
        scheduler = Scheduler(cache, limits, sizes.max_batch_tokens, sizes.max_num_seqs)
        for id in range(4):
            scheduler.add(random_request(draw, id, sizes.context))
        forking = Forking(scheduler, cache, draw, sizes)
        serve(scheduler, cache, draw, 8 * 2 * sizes.context, forking)
        assert all(len(one.tokens) == one.max_length for one in forking.joined)
        assert cache.num_free_blocks == cache.num_blocks
        joined += len(forking.joined)
        behind += forking.behind
        refused += forking.refused
    assert min(joined, behind, refused) > 100


def least_blocks(request: Request, limits: DraftLimits, sizes: Sizes) -> int:
    """By trying: the smallest cache in which the request alone, without luck, comes to its end."""
    for num_blocks in range(1, 200):
        cache = PagedCache(KVLayout(1, 1, 1), num_blocks, sizes.block_size)
        scheduler = Scheduler(cache, limits, sizes.max_batch_tokens, sizes.max_num_seqs)
        alone = Request(
            0, list(request.prompt), request.params, request.rule, request.transform, request.random, None, frozenset(),
            request.max_length,
        )  # fmt: skip
        scheduler.add(alone)
        try:
            serve(scheduler, cache, NoLuck(), 1000)
        except (SpecdecError, AssertionError):
            continue
        return num_blocks
    raise AssertionError("no cache is large enough")


class NoLuck(random.Random):
    def randint(self, a: int, b: int) -> int:
        return a


def test_what_is_refused_could_not_have_been_served() -> None:
    """The bound is exact: a request of one block less never ends."""
    for seed in range(60):
        draw = random.Random(seed)
        sizes = random_sizes(draw)
        limits = DraftLimits([(Shaped(shape=sizes.shape), Needs(whole_prefix=sizes.whole_prefix))])
        request = random_request(draw, 0, sizes.context)
        assert -(-limits.most_rows(request) // sizes.block_size) == least_blocks(request, limits, sizes)


def test_the_last_token_of_a_full_context_fits_beside_a_long_draft() -> None:
    """One request at a time, a prompt that leaves room for one token, and a drafter that would like five."""
    model = llama(0, max_context=32)
    for block_size in (1, 3, 4, 16):
        config = EngineConfig(max_num_seqs=1, block_size=block_size)
        engine = Engine(model, DRAFTERS["ngram"](), config=config)
        request = engine.make_request(list(range(31)), SamplingParams(max_tokens=1))
        engine.add(request)
        engine.step()
        assert (request.finish_reason, len(request.output)) == ("length", 1)
        drain(engine)


@pytest.mark.parametrize("max_batch_tokens", [6, 13, 512])
@pytest.mark.parametrize("drafter", ["none", "ngram", "ngram tree", "early exit tree", "model tree"])
def test_default_sizes_serve_a_full_context(
    drafter: str, max_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a gibibyte would not do: here one byte does not."""
    monkeypatch.setattr("specdec.engine.config.DEFAULT_KV_BYTES", 1)
    model = llama(0, max_context=24)
    try:
        engine = Engine(
            model,
            DRAFTERS[drafter](),
            config=EngineConfig(max_batch_tokens=max_batch_tokens, max_num_seqs=1, block_size=4),
        )
    except ConfigError:
        assert max_batch_tokens == 6
        return
    for prompt, max_tokens in ((1, 100), (23, 100), (23, 1), (12, 12), (20, 4)):
        request = engine.make_request(list(range(prompt)), SamplingParams(max_tokens=max_tokens))
        engine.add(request)
        drain(engine)
        assert (request.finish_reason, len(request.tokens)) == ("length", min(24, prompt + max_tokens))


def test_default_sizes_keep_to_their_gibibyte_where_they_can() -> None:
    model = llama(0)
    size = model.kv_layout.bytes_per_token() * 16
    many = EngineConfig(max_num_seqs=65536).blocks_for(model)
    assert many == DEFAULT_KV_BYTES // size
    assert EngineConfig(max_num_seqs=2).blocks_for(model) == 2 * 256 // 16
    assert EngineConfig(num_blocks=3).blocks_for(model) == 3


def test_a_step_that_can_serve_nobody_says_so() -> None:
    """A request that was let in and then grew by other means."""
    engine = small_engine(NonsenseDrafter(), num_blocks=4)
    stuck, other = (
        engine.make_request([1], SamplingParams(max_tokens=2)),
        engine.make_request([2], SamplingParams(max_tokens=2)),
    )
    stuck.tokens.extend([0] * 20)
    stuck.max_length = 40
    for request in (stuck, other):
        engine.add(request)
    with pytest.raises(SpecdecError, match=r"Request 0 cannot begin.*21 tokens and a draft of 5 need 7 blocks of 4"):
        engine.step()
    loop = EngineLoop(engine)
    third = engine.make_request([3], SamplingParams(max_tokens=2))
    loop.submit(third)
    assert [output.finish_reason for output in loop.outputs([third])][-1] == "length"
    assert (stuck.finish_reason, other.finish_reason) == ("error", "length")
    assert "Raise num_blocks" in str(stuck.error)


def test_a_request_is_queued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine(NgramDrafter())
    request = engine.make_request([1], SamplingParams(max_tokens=2))
    engine.add(request)
    engine.add(request)
    drain(engine)
    assert len(request.output) == 2
    with pytest.raises(SpecdecError, match=r"Request 0 has ended \(length\)"):
        engine.add(request)
