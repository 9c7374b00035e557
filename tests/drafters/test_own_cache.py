"""A cache for texts that change under it, against one that stores tokens and is asked what it holds."""

from __future__ import annotations

import random

import pytest
import torch

from specdec.drafters import own_cache
from specdec.drafters.own_cache import BLOCK_SIZE, OwnCache
from specdec.errors import OutOfBlocksError
from specdec.verify.tree import ROOT
from tests.tablemodel import TableModel

CONTEXT = 40


def made(num_slots: int = 1024, nodes: int = 4) -> OwnCache:
    return OwnCache(TableModel(lambda text: (), 9, max_context=CONTEXT), num_slots, nodes)


def run(cache: OwnCache, seq: int, text: list[int], nodes: list[int], parents: list[int], num_run: int) -> int:
    """Writes tokens where a model would write their entries; checks what is there already. Returns what was kept."""
    kept, slots = cache.begin(seq, text, len(nodes))
    cells = cache.pool.keys[0][:, 0, 0]
    assert [int(token) for token in cells[slots[:kept]].tolist()] == text[:kept]
    assert len(slots) == len(text) + len(nodes)
    written = [*text[kept:], *nodes[:num_run]]
    cells[slots[kept : kept + len(written)]] = torch.tensor(written, dtype=cells.dtype)
    cache.ran(seq, text, nodes[:num_run], parents[:num_run])
    return kept


def test_what_the_next_text_begins_with_is_kept_along_one_branch() -> None:
    cache = made()
    tree, parents = [4, 5, 6, 7], [ROOT, ROOT, 1, 1]
    assert run(cache, 0, [1, 2, 3], tree, parents, 3) == 0
    assert run(cache, 0, [1, 2, 3, 5, 6, 8], tree, parents, 4) == 5
    assert run(cache, 0, [1, 2, 3, 5, 6, 8, 5, 7], tree, parents, 0) == 7  # the last token is to be run again
    assert run(cache, 0, [1, 2, 9, 9], [], [], 0) == 2
    assert run(cache, 0, [1, 2, 9, 9], [], [], 0) == 3
    assert run(cache, 0, [1], [], [], 0) == 0


def test_random_texts_are_kept_as_far_as_they_were_run() -> None:
    """Of two texts in turns, against the longest beginning that any text and branch before had, and was run."""
    draw = random.Random(3)
    cache = made()
    known: dict[int, set[tuple[int, ...]]] = {0: {()}, 1: {()}}
    """Texts whose entries are kept, each with all its beginnings."""
    text: dict[int, list[int]] = {0: [1], 1: [2]}
    for _ in range(300):
        seq = draw.randrange(2)
        nodes = [draw.randrange(3) for _ in range(4)]
        parents = [draw.randrange(ROOT, node) for node in range(4)]
        num_run = draw.randrange(5)
        longest = max(n for n in range(len(text[seq])) if tuple(text[seq][:n]) in known[seq])
        assert run(cache, seq, text[seq], nodes, parents, num_run) == longest
        known[seq] = {tuple(text[seq][:n]) for n in range(len(text[seq]) + 1)}
        paths: list[tuple[int, ...]] = []
        for node in range(num_run):
            paths.append((*(tuple(text[seq]) if parents[node] == ROOT else paths[parents[node]]), nodes[node]))
        known[seq] |= set(paths)
        start = list(draw.choice(sorted(known[seq])))[: CONTEXT - 8]
        text[seq] = [*start, *(draw.randrange(3) for _ in range(draw.randrange(1, 4)))]
    cache._cache.check_integrity()
    for seq in (0, 1, 2):
        cache.drop(seq)
    assert cache._cache.num_free_blocks == cache._cache.num_blocks


def test_where_blocks_are_short_the_one_that_began_longest_ago_goes() -> None:
    cache = made(2 * (CONTEXT + 4))
    texts = {seq: [seq] * CONTEXT for seq in range(3)}
    assert [run(cache, seq, texts[seq], [], [], 0) for seq in (0, 1, 0, 1, 2)] == [0, 0, 39, 39, 0]
    assert [run(cache, seq, texts[seq], [], [], 0) for seq in (2, 1, 0)] == [39, 39, 0]
    with pytest.raises(OutOfBlocksError):
        cache.begin(2, texts[2], 4, busy=(0, 1))
    assert [run(cache, seq, texts[seq], [], [], 0) for seq in (0, 1)] == [39, 39]


def test_it_has_as_many_slots_as_asked_for_within_what_a_context_needs_and_a_gibibyte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    least = -(-(CONTEXT + 4) // BLOCK_SIZE) * BLOCK_SIZE
    assert made(1).pool.num_slots == least
    assert made(1000).pool.num_slots == 1008
    assert made(1000).memory() == 1008 * 8  # a float32 key and value
    monkeypatch.setattr(own_cache, "MOST_BYTES", 1600)
    assert made(1000).pool.num_slots == 208
    monkeypatch.setattr(own_cache, "MOST_BYTES", 16)
    assert made(1000).pool.num_slots == least
