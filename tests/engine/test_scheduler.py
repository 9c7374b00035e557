"""Hand-written plans: who takes part in a pass, with which rows."""

from __future__ import annotations

import pytest

from specdec import ConfigError, OutOfBlocksError, SamplingParams
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Drafter, Needs
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.request import Request
from specdec.engine.scheduler import DraftLimits, Scheduled, Scheduler
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.greedy import GreedyRule
from tests.engines import NonsenseDrafter


def scheduler(
    drafter: Drafter | None = None, num_blocks: int = 64, max_batch_tokens: int = 16, max_num_seqs: int = 2
) -> Scheduler:
    cache = PagedCache(KVLayout(1, 1, 1), num_blocks, block_size=4)
    drafter = drafter or NoDrafter()
    needs = Needs(whole_prefix=isinstance(drafter, EarlyExitDrafter))
    return Scheduler(cache, DraftLimits([(drafter, needs)]), max_batch_tokens, max_num_seqs)


def request(id: int, prompt_tokens: int, max_tokens: int = 8) -> Request:
    params, prompt = SamplingParams(max_tokens=max_tokens), list(range(prompt_tokens))
    return Request(
        id, prompt, params, GreedyRule(), LogitsTransform(params, prompt, 100), RandomSource(0), None, frozenset(),
        prompt_tokens + max_tokens,
    )  # fmt: skip


def plan(scheduler: Scheduler) -> list[tuple[int, int, int, bool]]:
    """(request, tail rows, draft tokens, decodes) of the next pass; the pass is then carried out."""
    parts = scheduler.schedule()
    for part in parts:
        carry_out(scheduler, part)
    return [(part.request.id, len(part.tail), part.max_depth, part.decodes) for part in parts]


def carry_out(scheduler: Scheduler, part: Scheduled) -> None:
    scheduler._cache.commit(part.request.id, len(part.tail))
    if part.decodes:
        part.request.tokens.append(0)


def test_a_prompt_longer_than_the_budget_takes_several_passes() -> None:
    s = scheduler()
    s.add(request(0, 40))
    assert [plan(s) for _ in range(4)] == [
        [(0, 16, 0, False)],
        [(0, 16, 0, False)],
        [(0, 8, 0, True)],
        [(0, 1, 0, True)],
    ]


def test_those_that_decode_go_first_and_the_next_prompt_takes_what_is_left() -> None:
    s = scheduler()
    s.add(request(0, 3))
    assert plan(s) == [(0, 3, 0, True)]
    s.add(request(1, 40))
    assert [plan(s) for _ in range(4)] == [
        [(0, 1, 0, True), (1, 15, 0, False)],
        [(0, 1, 0, True), (1, 15, 0, False)],
        [(0, 1, 0, True), (1, 10, 0, True)],
        [(0, 1, 0, True), (1, 1, 0, True)],
    ]


def test_a_draft_is_whole_or_waits_whatever_the_neighbours_do() -> None:
    s = scheduler(NonsenseDrafter(), max_batch_tokens=12)
    for id in (0, 1):
        s.add(request(id, 8, max_tokens=50))
    # 12 rows: 8 tokens of the prompt and a draft of 5 do not fit, so the last token waits, and so does the second
    # request, until 6 rows are left for it. At no time is a draft cut to what would fit.
    assert [plan(s) for _ in range(4)] == [
        [(0, 7, 0, False)],
        [(0, 1, 5, True), (1, 6, 0, False)],
        [(0, 1, 5, True), (1, 1, 0, False)],
        [(0, 1, 5, True), (1, 1, 5, True)],
    ]


def test_no_more_than_max_num_seqs_run() -> None:
    s = scheduler(max_num_seqs=2)
    for id in range(3):
        s.add(request(id, 2))
    assert plan(s) == [(0, 2, 0, True), (1, 2, 0, True)]
    s.finish(s.running[0])
    assert plan(s) == [(1, 1, 0, True), (2, 2, 0, True)]


def test_a_drafter_that_reads_the_targets_cache_waits_for_it() -> None:
    s = scheduler(EarlyExitDrafter(num_draft_tokens=3))
    s.add(request(0, 5))
    assert [plan(s) for _ in range(2)] == [[(0, 4, 0, False)], [(0, 1, 3, True)]]


def test_the_last_tokens_are_drafted_no_further_than_the_limit() -> None:
    s = scheduler(NonsenseDrafter())
    s.add(request(0, 4, max_tokens=4))
    assert [plan(s) for _ in range(4)] == [[(0, 4, 3, True)], [(0, 1, 2, True)], [(0, 1, 1, True)], [(0, 1, 0, True)]]


def test_the_youngest_gives_its_blocks_back_and_is_recomputed_first() -> None:
    s = scheduler(num_blocks=4)  # 16 slots
    for id in range(3):
        s.add(request(id, 7))
    assert plan(s) == [(0, 7, 0, True), (1, 7, 0, True)]
    assert plan(s) == [(0, 1, 0, True), (1, 1, 0, True)]
    older, younger = s.running
    assert plan(s) == [(0, 1, 0, True)]  # the ninth token of each wants a third block
    assert (older.stats.preemptions, younger.stats.preemptions) == (0, 1)
    assert [waiting.id for waiting in s.waiting] == [1, 2]
    s.finish(older)
    assert plan(s) == [(1, 9, 0, True)]


def test_a_request_that_could_never_fit_is_refused() -> None:
    s = scheduler(NonsenseDrafter(), num_blocks=4)
    s.check_fits(request(0, 4, max_tokens=13))  # the last of 17 tokens is not cached, and drafts end with the text
    with pytest.raises(OutOfBlocksError) as caught:
        s.check_fits(request(0, 4, max_tokens=14))
    assert (caught.value.wanted, caught.value.total) == (5, 4)


def test_budgets_too_small_for_a_full_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="12 cannot hold 3 sequences with 6 rows"):
        scheduler(NonsenseDrafter(), max_batch_tokens=12, max_num_seqs=3)
    with pytest.raises(ConfigError, match="max_num_seqs=0"):
        scheduler(max_num_seqs=0)


def test_requests_of_equal_fields_are_told_apart() -> None:
    """Two users may ask for the very same: ending one request must not end the other."""
    s = scheduler(max_num_seqs=1)
    first, second = request(0, 4), request(0, 4)
    assert first != second
    s.add(first)
    s.add(second)
    assert [part.request for part in s.schedule()] == [first]
    s.finish(second)
    assert s.running == [first]
    assert not s.waiting
