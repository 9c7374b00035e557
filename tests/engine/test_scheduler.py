"""Hand-written plans: who takes part in a pass, with which rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from specdec import ConfigError, DraftTree, OutOfBlocksError, SamplingParams, SpecdecError
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Drafter, Needs
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine.limits import DraftLimits
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.scheduler import Scheduler
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.base import Rule
from specdec.verify.greedy import GreedyRule
from specdec.verify.gumbel import GumbelRule
from specdec.verify.tree import ROOT
from tests.engines import NonsenseDrafter


def scheduler(
    drafter: Drafter | None = None,
    num_blocks: int = 64,
    max_batch_tokens: int = 16,
    max_num_seqs: int = 2,
    on_preempt: Callable[[Request], None] = lambda request: None,
) -> Scheduler:
    cache = PagedCache(KVLayout(1, 1, 1), num_blocks, block_size=4)
    drafter = drafter or NoDrafter()
    needs = Needs(whole_prefix=isinstance(drafter, EarlyExitDrafter))
    return Scheduler(cache, DraftLimits([(drafter, needs)]), max_batch_tokens, max_num_seqs, on_preempt)


def request(id: int, prompt_tokens: int, max_tokens: int = 8, rule: Rule | None = None, **settings: Any) -> Request:
    params, prompt = SamplingParams(max_tokens=max_tokens, **settings), list(range(prompt_tokens))
    return Request(
        id, prompt, params, rule or GreedyRule(), LogitsTransform(params, prompt, 100), RandomSource(0), None,
        frozenset(), prompt_tokens + max_tokens,
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


TREE = DraftTree((7, 8, 9), (ROOT, ROOT, 0))


def part(tail: int, decodes: bool = True, **settings: Any) -> tuple[Scheduled, PagedCache]:
    """The next `tail` tokens of a prompt of nine, after those that are cached; and the cache, with room for a draft."""
    cache, one = PagedCache(KVLayout(1, 1, 1), 8, block_size=4), request(0, 9, **settings)
    cache.add(0)
    cache.reserve(0, 9 - tail)
    cache.commit(0, 9 - tail)
    cache.reserve(0, tail + len(TREE))
    return Scheduled(one, one.tokens[9 - tail :], 3 if decodes else 0, decodes), cache


@pytest.mark.parametrize("tail", [1, 3])
def test_a_tree_hangs_on_the_last_row_of_the_tail(tail: int) -> None:
    one, cache = part(tail)
    rows = one.rows(TREE, cache)
    assert list(rows.tokens) == [*range(9 - tail, 9), 7, 8, 9]
    assert list(rows.parents or ()) == [*range(-1, tail - 1), tail - 1, tail - 1, tail]
    assert (rows.committed, rows.first, len(rows.slots)) == (9 - tail, 0, 9 + 3)
    assert list(rows.logit_rows) == [tail - 1, tail, tail + 1, tail + 2]


@pytest.mark.parametrize("tail", [1, 3])
def test_a_chain_needs_no_parents(tail: int) -> None:
    one, cache = part(tail)
    rows = one.rows(DraftTree.chain([7, 8]), cache)
    assert rows.parents is None
    assert list(rows.tokens) == [*range(9 - tail, 9), 7, 8]
    assert list(rows.logit_rows) == [tail - 1, tail, tail + 1]


def test_rows_that_are_only_read_have_logits_if_somebody_looks() -> None:
    reading, cache = part(3, decodes=False)
    assert list(reading.rows(DraftTree(), cache).logit_rows) == []
    assert list(reading.rows(DraftTree(), cache, all_logits=True).logit_rows) == [0, 1, 2]
    deciding, cache = part(3)
    assert list(deciding.rows(TREE, cache, all_logits=True).logit_rows) == [0, 1, 2, 3, 4, 5]


def test_the_last_row_of_the_tail_and_the_draft_are_decoding_and_the_rest_is_prefill() -> None:
    for tail, tree, rows in ((3, TREE, (2, 4)), (1, TREE, (0, 4)), (3, DraftTree(), (2, 1))):
        one, _ = part(tail)
        share = one.share(tree)
        assert share.stats is one.request.stats
        assert (share.prefill_rows, share.decode_rows) == rows
    reading, _ = part(3, decodes=False)
    share = reading.share(DraftTree())
    assert (share.prefill_rows, share.decode_rows) == (3, 0)


@pytest.mark.parametrize("rule", [GreedyRule(), GumbelRule()])
@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("scored", [None, 0])
def test_argmax_is_enough_where_nobody_looks_at_more(rule: Rule, decodes: bool, scored: int | None) -> None:
    """A sampled token and the log-probabilities of a prompt need whole rows; a row that is only read needs nothing."""
    one, _ = part(3, decodes, rule=rule, prompt_logprobs=scored)
    assert one.by_argmax == (scored is None and (isinstance(rule, GreedyRule) or not decodes))
    one.request.prompt_logprobs.extend([-1.0] * 8)
    assert one.by_argmax == (isinstance(rule, GreedyRule) or not decodes)


def test_a_drafter_is_told_of_the_whole_text_and_how_deep_it_may_go() -> None:
    one, _ = part(3)
    asked = one.draft_request(2)
    assert (asked.request_id, tuple(asked.tokens), asked.max_depth) == (0, tuple(range(9)), 2)
    assert asked.rule is one.request.rule
    assert asked.key == one.request.key()


def test_two_tokens_are_read_in_two_passes_for_a_drafter_that_waits_for_the_cache() -> None:
    s = scheduler(EarlyExitDrafter(num_draft_tokens=3))
    s.add(request(0, 2))
    assert [plan(s) for _ in range(2)] == [[(0, 1, 0, False)], [(0, 1, 3, True)]]


def test_sizes_that_just_suffice_are_taken() -> None:
    s = scheduler(NonsenseDrafter(), max_batch_tokens=6, max_num_seqs=1)
    s.add(request(0, 1))
    assert plan(s) == [(0, 1, 5, True)]
    with pytest.raises(ConfigError, match=r"5 cannot hold 1 sequences with 6 rows each \(6\)"):
        scheduler(NonsenseDrafter(), max_batch_tokens=5, max_num_seqs=1)


def test_nobody_begins_with_less_room_than_a_token_and_its_draft() -> None:
    s = scheduler(NonsenseDrafter(), max_batch_tokens=12)
    s.add(request(0, 2, max_tokens=50))
    s.add(request(1, 1, max_tokens=50))
    assert plan(s) == [(0, 2, 5, True)]  # five rows are left, and the second one needs six
    assert plan(s) == [(0, 1, 5, True), (1, 1, 5, True)]


def test_a_request_begins_as_soon_as_its_blocks_are_free() -> None:
    s = scheduler(NonsenseDrafter(), num_blocks=4)  # 16 slots
    for id in range(2):
        s.add(request(id, 3, max_tokens=50))
    assert plan(s) == [(0, 3, 5, True), (1, 3, 5, True)]  # eight rows each: not one block is left
    s = scheduler(NonsenseDrafter(), num_blocks=3)
    for id in range(2):
        s.add(request(id, 3, max_tokens=50))
    assert plan(s) == [(0, 3, 5, True)]


def test_of_many_that_run_the_youngest_goes_and_whoever_keeps_its_books_is_told() -> None:
    told: list[int] = []
    s = scheduler(num_blocks=6, max_num_seqs=3, max_batch_tokens=32, on_preempt=lambda one: told.append(one.id))
    requests = [request(id, 7) for id in range(3)]
    for one in requests:
        s.add(one)
    assert plan(s) == [(0, 7, 0, True), (1, 7, 0, True), (2, 7, 0, True)]
    plan(s)
    assert plan(s) == [(0, 1, 0, True), (1, 1, 0, True)]  # the ninth tokens of two take both blocks of the third
    assert (told, s.running, list(s.waiting)) == ([2], requests[:2], requests[2:])
    for _ in range(3):
        plan(s)
    assert plan(s) == [(0, 1, 0, True)]
    assert (told, s.running, list(s.waiting)) == ([2, 1], requests[:1], requests[1:])
    assert [one.stats.preemptions for one in requests] == [0, 1, 1]
    assert s.live == requests


def test_a_request_ends_once_wherever_it_is() -> None:
    s = scheduler(max_num_seqs=1)
    first, second, other = request(0, 4), request(1, 4), request(2, 4)
    for one in (first, second):
        s.add(one)
    plan(s)
    assert s.live == [first, second]
    assert [s.finish(one) for one in (other, first, first, second, second)] == [False, True, False, True, False]
    assert (s.live, s.running, list(s.waiting)) == ([], [], [])
    assert s.schedule() == []
    assert s._cache.num_free_blocks == s._cache.num_blocks
    s.add(first)  # its number is free again
    assert s.live == [first]


def test_after_a_restart_all_wait_in_order_and_hold_nothing() -> None:
    s = scheduler()
    requests = [request(id, 3) for id in range(3)]
    for one in requests:
        s.add(one)
    plan(s)
    s.schedule()  # interrupted
    s.restart()
    assert (s.running, list(s.waiting)) == ([], requests)
    assert s._cache.num_free_blocks == s._cache.num_blocks
    assert plan(s) == [(0, 4, 0, True), (1, 4, 0, True)]


def test_whoever_joins_takes_part_though_a_prompt_before_it_is_still_read() -> None:
    s = scheduler(NonsenseDrafter(), max_num_seqs=3, max_batch_tokens=18)
    s.add(request(0, 3, max_tokens=50))
    plan(s)
    s.add(request(1, 60, max_tokens=50))
    assert plan(s) == [(0, 1, 5, True), (1, 12, 0, False)]
    child = request(2, 4, max_tokens=50)
    s._cache.fork(0, 2)
    child.tokens = list(s.running[0].tokens[: s._cache.length(2) + 1])
    s.join(child)
    assert s.live[-1] is child
    assert [plan(s) for _ in range(2)] == [[(0, 1, 5, True), (1, 6, 0, False), (2, 1, 5, True)]] * 2
    full = request(3, 4)
    with pytest.raises(SpecdecError, match="Request 3 cannot join: 3 requests run, and max_num_seqs is 3"):
        s.join(full)
    assert s.live[-1] is child
    assert s.finish(child)
