"""Who begins next: what a batch computes at the least, by trying every order; and how long anybody waits."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec import SamplingParams
from specdec.cache import KVLayout, PagedCache
from specdec.drafters.base import Needs
from specdec.drafters.none import NoDrafter
from specdec.engine import order
from specdec.engine.limits import DraftLimits
from specdec.engine.prefixes import Prefixes
from specdec.engine.request import Request
from specdec.engine.scheduler import Scheduler
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.greedy import GreedyRule

Prompts = list[list[int]]


def request(id: int, prompt: list[int]) -> Request:
    params = SamplingParams(max_tokens=1)
    transform, end = LogitsTransform(params, prompt, 100), len(prompt) + 1
    return Request(id, prompt, params, GreedyRule(), transform, RandomSource(0), None, frozenset(), end)


class Line:
    """A scheduler that serves one request at a time, over a cache of single tokens."""

    def __init__(self, num_blocks: int) -> None:
        cache = PagedCache(KVLayout(1, 1, 1), num_blocks, block_size=1)
        prefixes = Prefixes(cache, enabled=True)
        self.scheduler = Scheduler(cache, DraftLimits([(NoDrafter(), Needs())]), 64, 1, prefixes=prefixes)
        self.cache, self.rows, self.begun = cache, 0, list[int]()

    def serve(self) -> None:
        """One request, from its beginning to its end."""
        [part] = self.scheduler.schedule()
        self.cache.commit(part.request.id, len(part.tail))
        self.rows += len(part.tail)
        self.begun.append(part.request.id)
        self.scheduler.finish(part.request)
        self.cache.check_integrity()


def rows_of(prompts: Prompts, num_blocks: int, together: bool) -> int:
    """Tokens that run if the prompts wait together, or come one after the other."""
    line = Line(num_blocks)
    for place, prompt in enumerate(prompts):
        line.scheduler.add(request(place, prompt))
        if not together:
            line.serve()
    while line.scheduler.waiting:
        line.serve()
    return line.rows


def tree_of(random: Random, count: int) -> Prompts:
    """Texts over two tokens that often begin alike. The last token of each is its own, since it must run anyway."""
    return [[*random.choices([1, 2], k=random.randint(1, 7)), 10 + place] for place in range(count)]


@pytest.mark.parametrize("seed", range(60))
def test_a_batch_computes_each_beginning_once(seed: int) -> None:
    """The theorem: with room for the longest text alone, what runs is the number of edges of the tree, and no order of
    the requests runs less."""
    prompts = tree_of(Random(seed), 7)
    room = max(map(len, prompts))
    edges = len({tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))})
    assert rows_of(prompts, room, together=True) == edges
    if seed < 4:
        every = [rows_of(list(one), room, together=False) for one in permutations(prompts[:5])]
        assert min(every) == rows_of(prompts[:5], room, together=True) < max(every)


@given(st.lists(st.sampled_from("abcx"), min_size=10, max_size=60), st.integers(0, 4))
def test_nobody_is_overtaken_more_often_than_is_said(events: list[str], most: int) -> None:
    """Requests of three hot texts and of cold ones come and are served at random. Who began before whom is counted by
    the numbers of their arrival."""
    line, hot = Line(64), {name: [place, *range(20)] for place, name in enumerate("abc")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "MOST_OVERTAKEN", most)
        for place, event in enumerate(events):
            line.scheduler.add(request(place, [*hot.get(event, [30 + place % 50]), 99 - place % 9]))
            if place % 3 == 2:
                line.serve()
        while line.scheduler.waiting:
            line.serve()
    assert sorted(line.begun) == list(range(len(events)))
    for place, number in enumerate(line.begun):
        assert sum(other > number for other in line.begun[:place]) <= most


@pytest.mark.parametrize("most", [0, 5, order.MOST_OVERTAKEN, 10**9])
def test_a_text_that_nobody_shares_waits_for_so_many_others(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound it would wait for ever: hot requests keep coming."""
    monkeypatch.setattr(order, "MOST_OVERTAKEN", most)
    line, hot = Line(64), [1] * 20
    line.scheduler.add(request(0, [*hot, 3]))
    line.serve()
    line.scheduler.add(request(1, [2] * 20))
    for place in range(2, 100):
        line.scheduler.add(request(place, [*hot, place % 50]))
        line.serve()
    assert (line.begun.index(1) - 1 if 1 in line.begun else None) == (most if most < 90 else None)


def test_of_equals_the_first_goes_first() -> None:
    line = Line(64)
    for place in range(10):
        line.scheduler.add(request(place, [place, 5, 5]))
    while line.scheduler.waiting:
        line.serve()
    assert line.begun == list(range(10))
