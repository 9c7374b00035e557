"""The radix tree of prefixes, over a cache whose entries are a function of the tokens before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from random import Random
from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from specdec.cache import BlockAllocator, KVLayout, PagedCache, Pool
from specdec.cache.prefix import PrefixTree
from specdec.cache.runs import Node, Space, common
from specdec.errors import OutOfBlocksError, SpecdecError
from tests.cache.layouts import Features

LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=1)


def entries(tokens: Sequence[int], pool: int) -> list[float]:
    """What a pool holds at each position: a number that tells apart the texts up to there, exact in float32."""
    state, found = 1 + pool, []
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
        found.append(float(state))
    return found


class Texts:
    """A cache with two drafters' pools beside the target's, and texts that are written to it.

    Args:
        num_blocks, block_size: of the cache.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.cache = PagedCache(LAYOUT, num_blocks, block_size, [Features(1), Features(1)])
        self.pool = self.cache.pools[1]
        self.tokens: dict[int, list[int]] = {}
        self.next_seq = 0

    def write(self, pool: Pool, slots: torch.Tensor, values: Sequence[float]) -> None:
        for tensor in pool.tensors:
            tensor[slots] = torch.tensor(values).view(-1, *[1] * (tensor.dim() - 1))

    def read(self, pool: Pool, slots: torch.Tensor) -> list[float]:
        [first, *others] = [tensor[slots].flatten().tolist() for tensor in pool.tensors]
        assert all(other == first for other in others)
        return first

    def begin(self, tokens: Sequence[int], space: Space = None, most: int | None = None) -> int:
        """A new sequence, which begins with what is found of its text."""
        self.next_seq += 1
        seq, match = self.next_seq, self.cache.prefixes.match(space, tokens)
        match = self.cache.prefixes.cut(match, match.length if most is None else most)
        self.cache.add(seq, match)
        self.tokens[seq] = list(tokens[: match.length])
        return seq

    def extend(self, seq: int, tokens: Sequence[int], drafted: int = 0) -> None:
        """Commits tokens; rows of a draft behind them are written and given back."""
        self.cache.reserve(seq, len(tokens) + drafted)
        text = [*self.tokens[seq], *tokens]
        slots = self.cache.slots(seq)
        self.write(self.cache.target, slots[len(self.tokens[seq]) : len(text)], entries(text, 0)[-len(tokens) :])
        for pool in self.cache.pools:
            self.write(pool, slots[len(text) :], [-1.0] * drafted)
        self.cache.commit(seq, len(tokens))
        self.tokens[seq] = text

    def fill(self, seq: int, n: int, place: int = 1) -> None:
        """A drafter catches up to `n` tokens."""
        slots, pool = self.cache.slots(seq)[:n], self.cache.pools[place]
        known = self.cache.filled(seq, pool)
        self.write(pool, slots[known:], entries(self.tokens[seq][:n], place)[known:])
        self.cache.fill(seq, pool, n)

    def end(self, seq: int, space: Space = None) -> None:
        self.cache.remember(seq, space, self.tokens[seq])
        self.free(seq)

    def free(self, seq: int) -> None:
        self.cache.free(seq)
        del self.tokens[seq]

    def say(self, tokens: Sequence[int], space: Space = None) -> int:
        """A whole life. Returns how many tokens were found."""
        seq = self.begin(tokens, space)
        found = self.cache.length(seq)
        if found < len(tokens):
            self.extend(seq, tokens[found:])
        self.end(seq, space)
        self.cache.check_integrity()
        return found

    def runs(self) -> list[list[int]]:
        """The texts of all nodes, sorted."""
        return sorted([token for one in node.path() for token in one.tokens] for node in self.cache.prefixes.nodes())

    def check(self) -> None:
        """Every path of the tree, and every sequence, holds what a fresh text would."""
        self.cache.check_integrity()
        for seq, text in self.tokens.items():
            self.holds(self.cache.slots(seq), text, {pool: self.cache.filled(seq, pool) for pool in self.cache.pools})
        for node in self.cache.prefixes.nodes():
            text = [token for one in node.path() for token in one.tokens]
            blocks: list[int] = []
            for one in node.path():
                blocks[one.start // self.cache.block_size :] = one.blocks
            table = torch.tensor(blocks)[:, None] * self.cache.block_size + torch.arange(self.cache.block_size)
            self.holds(table.flatten(), text, node.filled | {self.cache.target: len(text)})

    def holds(self, slots: torch.Tensor, text: Sequence[int], filled: Mapping[Pool, int]) -> None:
        for place, pool in enumerate(self.cache.pools):
            n = filled.get(pool, 0)
            assert self.read(pool, slots[:n]) == entries(text[:n], place)


def lengths(texts: Texts, *asked: Sequence[int], space: Space = None) -> list[int]:
    return [texts.cache.prefixes.match(space, tokens).length for tokens in asked]


def test_texts_are_found_token_by_token_and_runs_split_where_texts_part() -> None:
    texts = Texts(num_blocks=16, block_size=4)
    assert texts.say([1, 2, 3, 4, 5, 6]) == 0
    assert texts.say([1, 2, 3, 4, 5, 9, 9]) == 5
    assert texts.say([1, 2, 7]) == 2
    assert texts.say([8]) == 0
    assert texts.runs() == [
        [1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 9, 9], [1, 2, 7], [8]
    ]  # fmt: skip
    assert lengths(texts, [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9], [1], [2, 1], [], [8, 8]) == [6, 3, 1, 0, 0, 1]
    texts.check()


def test_what_is_found_is_copied_before_it_is_written_to() -> None:
    """Six tokens in blocks of four: the second block is shared, copied with the first write, and stays as it was."""
    texts = Texts(num_blocks=16, block_size=4)
    texts.say([1, 2, 3, 4, 5, 6])
    before = texts.cache.num_free_blocks
    seq = texts.begin([1, 2, 3, 4, 5, 7])
    assert (texts.cache.length(seq), before - texts.cache.num_free_blocks) == (5, 2)
    texts.extend(seq, [7, 8], drafted=3)
    texts.check()
    assert lengths(texts, [1, 2, 3, 4, 5, 6]) == [6]


def test_spaces_share_nothing() -> None:
    texts = Texts(num_blocks=16, block_size=4)
    texts.say([1, 2, 3], space=None)
    texts.say([1, 2, 3, 4], space="a")
    assert [lengths(texts, [1, 2, 3, 4], space=space) for space in (None, "a", "b", "None", "")] == [
        [3], [4], [0], [0], [0],
    ]  # fmt: skip


def test_the_least_recently_used_leaf_goes_first_from_its_end() -> None:
    texts = Texts(num_blocks=6, block_size=2)
    texts.say([1, 1, 1, 1])
    texts.say([2, 2, 2])
    texts.say([3, 3])
    assert (texts.say([1, 1, 1, 1]), texts.cache.num_free_blocks) == (4, 6)
    texts.cache.prefixes.evict(2)  # one block is free, and another one is wanted
    assert texts.runs() == [[1, 1, 1, 1], [2, 2], [3, 3]]
    texts.cache.prefixes.evict(4)
    assert texts.runs() == [[1, 1, 1, 1]]
    texts.cache.prefixes.evict(5)
    assert texts.runs() == [[1, 1]]
    assert texts.cache.prefixes.evicted_tokens == 7
    texts.cache.prefixes.evict(6)
    assert texts.runs() == []
    texts.check()


def test_a_policy_says_which_leaf_goes_first() -> None:
    allocator = BlockAllocator(4)
    tree = PrefixTree(allocator, 2, worth=lambda node: -node.used)
    for token in (1, 2, 3):
        table = allocator.allocate(1)
        tree.insert(None, [token], table, {})
        allocator.release(table)
    tree.evict(2)
    assert [tree.match(None, [token]).length for token in (1, 2, 3)] == [1, 1, 0]


def test_what_a_sequence_uses_goes_last_and_stays_the_sequences() -> None:
    texts = Texts(num_blocks=4, block_size=2)
    texts.say([1, 1, 1, 1])
    seq = texts.begin([1, 1, 1, 1])
    texts.say([2, 2, 2, 2])
    texts.cache.prefixes.evict(2)
    assert texts.runs() == [[1, 1, 1, 1]]
    texts.cache.prefixes.evict(4)  # more than can be had: what is in use leaves the tree, and is not free
    assert (texts.runs(), texts.cache.num_free_blocks) == ([], 2)
    texts.check()
    texts.end(seq)
    assert lengths(texts, [1, 1, 1, 1]) == [4]


def test_a_fuller_text_takes_the_place_of_an_emptier_one() -> None:
    """The drafter's pool had nothing of the first text, and has six tokens of the second, in blocks of its own."""
    texts = Texts(num_blocks=16, block_size=4)
    texts.say([1, 2, 3, 4, 5, 6, 7, 8])
    seq = texts.begin([], most=0)
    texts.extend(seq, [1, 2, 3, 4, 5, 6, 7, 9])
    texts.fill(seq, 6)
    texts.end(seq)
    texts.check()
    found = [texts.cache.prefixes.match(None, [1, 2, 3, 4, 5, 6, 7, last]) for last in (8, 9)]
    assert [(one.length, dict(one.filled)) for one in found] == [(8, {}), (8, {texts.pool: 6})]
    assert dict(texts.cache.prefixes.match(None, [1, 2, 3, 4, 5]).filled) == {texts.pool: 5}


@pytest.mark.parametrize("seed", range(4))
def test_a_match_is_the_longest_beginning_of_any_text_that_is_kept(seed: int) -> None:
    draw = Random(seed)
    texts = Texts(num_blocks=400, block_size=draw.choice([1, 2, 3, 4]))
    said: list[list[int]] = []
    for _ in range(60):
        text = [draw.randrange(2) for _ in range(draw.randint(1, 9))]
        longest = max((sum(1 for _ in _agreeing(text, other)) for other in said), default=0)
        assert texts.say(text) == longest
        said.append(text)
    texts.check()


def _agreeing(a: Sequence[int], b: Sequence[int]) -> Iterator[int]:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x


def test_the_common_beginning_is_found_whatever_its_length() -> None:
    for length in range(6):
        for other in range(6):
            for agree in range(min(length, other) + 1):
                a, b = [0] * length, [0] * agree + [1] * (other - agree)
                assert common(a, b) == common(tuple(b), a) == sum(1 for _ in _agreeing(a, b))


@pytest.mark.parametrize("seed", range(12))
def test_depth_first_order_computes_each_edge_once_which_no_order_does_better(seed: int) -> None:
    """Theorem 3.1 of Zheng et al. 2023: a cache that holds the longest request is enough. By brute force over all
    orders of five requests."""
    draw = Random(seed)
    requests = [[draw.randrange(2) for _ in range(draw.randint(1, 5))] for _ in range(5)]
    edges = len({tuple(text[: n + 1]) for text in requests for n in range(len(text))})
    longest = max(map(len, requests))
    computed = {order: _computed(order, longest) for order in permutations(map(tuple, requests))}
    assert computed[tuple(sorted(map(tuple, requests)))] == edges == min(computed.values())


def _computed(order: Sequence[Sequence[int]], num_blocks: int) -> int:
    texts = Texts(num_blocks, block_size=1)
    return sum(len(text) - texts.say(text) for text in order)


def test_a_thousand_texts_leave_no_more_than_the_cache_holds() -> None:
    """Ten thousand requests of as many salts, ten tokens each: nodes, spaces and tokens are bounded by the slots."""
    draw, texts = Random(0), Texts(num_blocks=24, block_size=4)
    tree = texts.cache.prefixes
    for number in range(10_000):
        space = str(number) if number % 3 else None
        seq = texts.begin([], space)
        texts.extend(seq, [draw.randrange(3) for _ in range(10)])
        texts.end(seq, space)
        if number % 500 == 0:
            texts.check()
            nodes = list(tree.nodes())
            assert sum(len(node.tokens) for node in nodes) <= 96
            assert len(nodes) <= 96
            assert len(tree._roots) <= 24
            assert len(tree._leaves) <= 24
    assert texts.cache.num_free_blocks == 24


def _lose_a_leaf(tree: PrefixTree) -> None:
    tree._leaves.popitem()


def _change_a_child(tree: PrefixTree) -> None:
    _leaf(tree).tokens = (5, 5)


def _lose_a_block(tree: PrefixTree) -> None:
    _leaf(tree).blocks = []


def _fill_too_far(tree: PrefixTree) -> None:
    _leaf(tree).filled = {Pool(Features(1), 4): 9}


def _forget_an_empty_root(tree: PrefixTree) -> None:
    tree._roots["x"] = Node()


def _leaf(tree: PrefixTree) -> Node:
    return next(iter(tree._leaves))


@pytest.mark.parametrize(
    "corrupt", [_lose_a_leaf, _change_a_child, _lose_a_block, _fill_too_far, _forget_an_empty_root]
)
def test_check_integrity_notices_a_corrupted_tree(corrupt: object) -> None:
    texts = Texts(num_blocks=8, block_size=2)
    texts.say([1, 2, 3])
    corrupt(texts.cache.prefixes)  # type: ignore[operator]
    with pytest.raises(SpecdecError):
        texts.cache.check_integrity()


class TreeMachine(RuleBasedStateMachine):
    """Sequences that come, grow, are given up, preempted, forked and ended, in a cache that is too small for all."""

    seen: ClassVar[Counter[str]] = Counter()
    SPACES = (None, "salt")

    @initialize(block_size=st.sampled_from([1, 2, 3, 4]))
    def start(self, block_size: int) -> None:
        self.texts = Texts(num_blocks=8 + 24 // block_size, block_size=block_size)
        self.spaces: dict[int, Space] = {}
        self.kept: dict[Space, list[list[int]]] = {space: [] for space in self.SPACES}
        for space in (None, None, "salt"):
            self.kept[space].append([0, 1, 1, 0, 1, 0, 0, 1])
            self.texts.say(self.kept[space][-1], space)

    def running(self) -> bool:
        return bool(self.texts.tokens)

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(list(self.texts.tokens)), label="sequence")

    def try_to_extend(self, seq: int, tokens: list[int], drafted: int) -> bool:
        """As the engine does: what is kept goes before anyone is refused."""
        cache, length = self.texts.cache, len(self.texts.tokens[seq])
        size, last = cache.block_size, cache._get(seq).table[-1:]
        copies = length % size > 0 and cache._allocator.ref_count(last[0]) > 1
        wanted = cache.blocks(length + len(tokens) + drafted) - cache.blocks(length) + copies
        evicted = cache.prefixes.evicted_tokens
        if wanted > cache.num_free_blocks:
            with pytest.raises(OutOfBlocksError):
                self.texts.extend(seq, tokens, drafted)
            assert cache.prefixes.evicted_tokens == evicted
            self.seen["refused"] += 1
            return False
        self.texts.extend(seq, tokens, drafted)
        self.seen["evicted for others"] += cache.prefixes.evicted_tokens > evicted
        self.seen["copied a block"] += copies
        return True

    @precondition(lambda self: len(self.texts.tokens) < 3)
    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), space=st.sampled_from(SPACES), part=st.booleans())
    def add(self, tokens: list[int], space: Space, part: bool) -> None:
        whole = self.texts.cache.block_size
        longest = max((common(tokens, other) for other in self.kept[space]), default=0)
        [found] = lengths(self.texts, tokens, space=space)
        assert found <= longest
        if not self.texts.cache.prefixes.evicted_tokens:
            assert found == longest
        seq = self.texts.begin(tokens, space, most=found // whole * whole if part else None)
        self.spaces[seq] = space
        self.seen["found"] += self.texts.cache.length(seq) > 0
        self.seen["found what was filled"] += self.texts.cache.filled(seq, self.texts.pool) > 0
        if rest := tokens[self.texts.cache.length(seq) :]:
            self.try_to_extend(seq, rest, 0)

    @precondition(running)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=3), drafted=st.integers(0, 4))
    def step(self, data: st.DataObject, tokens: list[int], drafted: int) -> None:
        self.try_to_extend(self.pick(data), tokens, drafted)

    @precondition(running)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        seq, place = self.pick(data), data.draw(st.sampled_from([1, 2]), label="pool")
        left = len(self.texts.tokens[seq]) - self.texts.cache.filled(seq, self.texts.cache.pools[place])
        self.texts.fill(seq, len(self.texts.tokens[seq]) - data.draw(st.integers(0, left), label="left out"), place)

    @precondition(running)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        """Whole blocks of a sequence that goes on."""
        seq = self.pick(data)
        tokens = self.texts.tokens[seq]
        whole = tokens[: len(tokens) // self.texts.cache.block_size * self.texts.cache.block_size]
        self.texts.cache.remember(seq, self.spaces[seq], whole)
        self.kept[self.spaces[seq]].append(whole)

    @precondition(running)
    @rule(data=st.data())
    def end_or_preempt(self, data: st.DataObject) -> None:
        seq = self.pick(data)
        self.kept[self.spaces[seq]].append(list(self.texts.tokens[seq]))
        self.texts.end(seq, self.spaces[seq])

    @precondition(running)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """A request whose text may not be kept."""
        self.texts.free(self.pick(data))

    @precondition(lambda self: self.running() and len(self.texts.tokens) < 3)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = self.pick(data)
        self.texts.next_seq += 1
        self.texts.cache.fork(parent, self.texts.next_seq)
        self.texts.tokens[self.texts.next_seq] = list(self.texts.tokens[parent])
        self.spaces[self.texts.next_seq] = self.spaces[parent]
        self.seen["forked"] += 1

    @rule(more=st.integers(1, 3))
    def evict(self, more: int) -> None:
        cache = self.texts.cache
        wanted = min(cache._allocator.num_free + more, cache.num_free_blocks)
        cache.prefixes.evict(wanted)
        assert cache._allocator.num_free >= wanted

    @invariant()
    def every_path_holds_what_a_fresh_text_would(self) -> None:
        self.texts.check()
        cache = self.texts.cache
        held = {slot // cache.block_size for seq in self.texts.tokens for slot in cache.slots(seq).tolist()}
        assert cache.num_blocks - cache.num_free_blocks == len(held)
        kept = {block for node in cache.prefixes.nodes() for block in node.blocks}
        unused = torch.ones(cache.num_blocks, cache.block_size, dtype=torch.bool)
        unused[sorted(held | kept)] = False
        for pool in cache.pools:
            for tensor in pool.tensors:
                tensor[unused.flatten()] = float("nan")

    def teardown(self) -> None:
        if hasattr(self, "texts"):
            for seq in list(self.texts.tokens):
                self.texts.free(seq)
            seq = self.texts.begin([])
            self.texts.extend(seq, [5] * self.texts.cache.num_blocks * self.texts.cache.block_size)
            assert not list(self.texts.cache.prefixes.nodes())


OUTCOMES = {"forked", "refused", "evicted for others", "copied a block", "found", "found what was filled"}


@pytest.mark.parametrize("examples", [150, pytest.param(800, marks=pytest.mark.slow)])
def test_random_lives_leave_every_path_as_a_fresh_text_would_be(examples: int) -> None:
    TreeMachine.seen.clear()
    run_state_machine_as_test(
        TreeMachine, settings=settings(derandomize=True, deadline=None, max_examples=examples, stateful_step_count=40)
    )
    seen = {name for name, times in TreeMachine.seen.items() if times}
    assert seen <= OUTCOMES
    assert len(seen) >= (len(OUTCOMES) if examples >= 800 else 4)  # which few are drawn follows the modules in memory
    TreeMachine.seen.clear()
