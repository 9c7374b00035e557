"""Token recycling: what it drafts has been ranked high after the same token, by a row that ran or by a prompt."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specdec import ConfigError, DraftRequest, DraftTree, Engine, EngineConfig, SamplingParams
from specdec.drafters import first_rows as rows_of_tokens
from specdec.drafters import odds
from specdec.drafters.base import Outcome, TargetHandle
from specdec.drafters.first_rows import first_rows, is_cheap, shipped_rows
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import FIRST_KIND, PRIVATE, RecyclingDrafter
from specdec.errors import InvalidRequestError
from specdec.kernels.successors import ORDER, SOURCES, WIDTH
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.stores import Vocabulary
from specdec.testing import check_drafter
from specdec.testing.conformance import Drafts
from tests.drafting import draft_request
from tests.engines import add, outputs, run
from tests.tiny import VOCAB_SIZE, llama, llama_module

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [7, 7, 7, 7], [60, 3, 9, 60, 3, 9, 60, 3]]
GREEDY = SamplingParams(max_tokens=24)


def bound(target: CausalLM | None = None, **options: Any) -> RecyclingDrafter:
    """A drafter that knows nothing yet, unless `first` is asked for."""
    drafter = RecyclingDrafter(**{"first": False, "contexts": 1024, **options})
    drafter.bind(TargetHandle(target or llama(0, vocab_size=1000)))
    return drafter


def row(*tokens: int) -> list[int]:
    """Eight successors: these, then tokens that no other row has."""
    return [*tokens, *range(100 + 10 * tokens[0], 110 + 10 * tokens[0])][:WIDTH]


def outcome(
    request_id: int, start: int, tail: Sequence[int], tree: DraftTree, path: tuple[int, ...], top: list[list[int]]
) -> Outcome:
    """A greedy pass: each row's first token is what the target says."""
    tokens = [*(tree.tokens[node] for node in path), top[path[-1] + 1 if path else 0][0]]
    rows = torch.tensor(top, dtype=torch.int32)
    return Outcome(request_id, start, tail, tree, "recycling", path, tokens, top=rows)


def edges(tree: DraftTree, last: int) -> set[tuple[int, int]]:
    """(token, token below it) of every node."""
    above = [last if parent < 0 else tree.tokens[parent] for parent in tree.parents]
    return set(zip(above, tree.tokens, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shared": False, "first": False, "max_nodes": 3}], ids=str)
def test_conformance(options: dict[str, Any]) -> None:
    check_drafter(lambda target: RecyclingDrafter(**options), seeds=(0,), quick=True)


@pytest.mark.slow
def test_conformance_at_length() -> None:
    check_drafter(lambda target: RecyclingDrafter(max_nodes=20, floor=0.0, contexts=64), seeds=(0, 1))


class Watched(RecyclingDrafter):
    """Asserts of every draft that its tokens were seen after those above them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(first=False, floor=0.0, max_nodes=30, **options)
        self.seen: dict[int, set[int]] = defaultdict(set)
        self.rows: dict[int, list[set[int]]] = defaultdict(list)
        self.drafted = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        for request in requests:
            for token, following in zip(request.tokens, request.tokens[1:], strict=False):
                self.seen[token].add(following)
        trees = super().propose(requests)
        for request, tree in zip(requests, trees, strict=True):
            for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
                above = request.tokens[-1] if parent < 0 else tree.tokens[parent]
                before = self.rows[request.request_id][-2 + tree.depths[node] :] if tree.depths[node] < 2 else []
                assert token in self.seen[above].union(*before), (above, token)
            self.drafted += len(tree)
        return trees

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        super().observe(outcomes)
        for one in outcomes:
            if one.top is not None:
                for token, top in zip([one.tail[-1], *one.tree.tokens], one.top.tolist(), strict=True):
                    self.seen[token] |= set(top)
                self.rows[one.request_id] += [set(one.top[r].tolist()) for r in (0, *(n + 1 for n in one.path))]


@pytest.mark.parametrize("sizes", [{}, {"max_num_seqs": 2}, {"num_blocks": 90}], ids=str)
def test_nothing_is_drafted_that_no_row_and_no_prompt_has_shown(sizes: dict[str, int]) -> None:
    drafter = Watched()
    config = EngineConfig(**{"block_size": 4, "num_blocks": 300, **sizes})
    requests = run(Engine(llama(0), drafter, config=config), PROMPTS, replace(GREEDY, max_tokens=60))
    assert all(request.error is None for request in requests)
    assert drafter.drafted > 500


def test_a_draft_is_what_followed_in_the_prompt_the_latest_first() -> None:
    drafter = bound(floor=0.0)
    [tree] = drafter.propose([draft_request([1, 2, 8, 1, 2, 9, 3, 1, 2])])
    assert [tree.prefix(node) for node in tree.children(-1)] == [(9,), (8,)]
    assert (9, 3) in edges(tree, 2)
    assert bound().propose([draft_request([1, 2, 3])])[0].tokens == ()


def test_rows_of_refused_nodes_are_learnt_and_kept_ones_come_last() -> None:
    drafter = bound(floor=0.0, max_nodes=40)
    drafter.propose([draft_request([1, 2])])
    tree = DraftTree((3, 4, 3), (-1, -1, 1))
    drafter.observe([outcome(0, 1, [2], tree, (), [row(9), row(20), row(21), row(22)])])
    [draft] = drafter.propose([draft_request([1, 2, 9, 4])])
    assert draft.tokens[draft.children(-1)[0]] == 21, "the row of a refused node"
    [draft] = drafter.propose([draft_request([1, 2, 9, 8, 7, 3])])
    assert {20, 22} & {draft.tokens[n] for n in draft.children(-1)} == {22}, "of refused rows the last one"
    drafter.observe([outcome(0, 6, [3], tree, (0,), [row(3), row(30), row(31), row(32)])])
    [draft] = drafter.propose([draft_request([6, 3], request_id=1)])
    assert draft.tokens[draft.children(-1)[0]] == 30, "a kept row stays, though a refused one stands behind it"


def test_longer_contexts_tell_more() -> None:
    drafter = bound(floor=0.0, max_nodes=40)
    drafter.propose([draft_request([1, 2])])
    drafter.observe([outcome(0, 1, [2], DraftTree((5, 6), (-1, 0)), (0, 1), [row(5), row(6), row(7)])])
    drafter.observe([outcome(0, 4, [7], DraftTree((8, 6), (-1, 0)), (0, 1), [row(8), row(6), row(9)])])
    for text, best in (([1, 5, 6], 7), ([1, 8, 6], 9), ([1, 1, 6], 9)):
        [draft] = drafter.propose([draft_request(text, request_id=best)])
        assert draft.tokens[draft.children(-1)[0]] == best


def test_what_the_last_rows_ranked_high_is_drafted_beside() -> None:
    """LogitSpec: the row that gave a token ranks the one after it, too."""
    drafter = bound(floor=0.0, max_nodes=40)
    drafter.propose([draft_request([1, 2])])
    drafter.observe([outcome(0, 1, [2], DraftTree(), (), [row(3, 11, 12)])])
    [draft] = drafter.propose([draft_request([1, 2, 3])])
    assert [draft.tokens[node] for node in draft.children(-1)][:2] == [11, 12]
    assert 3 not in draft.tokens


def test_a_node_is_drafted_only_if_it_survives_often_enough() -> None:
    drafter = bound(first=True, floor=0.05, max_nodes=30, num_draft_tokens=4)
    for depth in (2, 4, 9):
        [tree] = drafter.propose([draft_request([1, 2, 1, 2, 1], depth)])
        assert tree.depth == min(depth, 4)
        for node in range(len(tree)):
            assert math.prod(tree.chances[each] for each in tree.path(node)) >= 0.05
    [whole] = bound(first=True, floor=0.0, max_nodes=30).propose([draft_request([1, 2, 1, 2, 1])])
    assert len(whole) == 30
    survival = [math.prod(whole.chances[each] for each in whole.path(node)) for node in range(30)]
    assert survival == sorted(survival, reverse=True)
    assert all(FIRST_KIND <= kind < 1024 for kind in whole.kinds)


def test_two_runs_draft_the_same() -> None:
    """With what earlier requests have shown, in batches, with requests that are preempted."""
    found = []
    for _ in range(2):
        drafter = RecyclingDrafter(contexts=256)
        drafts = Drafts(drafter)
        engine = Engine(llama(0), drafter, config=EngineConfig(block_size=4, num_blocks=40, max_num_seqs=4))
        for _ in range(3):
            run(engine, PROMPTS, GREEDY)
        found.append([(tree.tokens, tree.parents, tree.chances) for tree in drafts.trees])
    assert found[0] == found[1]
    assert sum(map(len, (tokens for tokens, _, _ in found[0]))) > 300


@pytest.mark.parametrize("native", [True, False])
def test_what_one_request_shows_serves_the_next_of_its_salt_alone(native: bool) -> None:
    target = NativeModel(llama_module(0)) if native else llama(0)
    prompt = list(range(10, 40))

    def first_draft(drafter: RecyclingDrafter, **params: Any) -> tuple[int, ...]:
        drafts = Drafts(drafter)
        engine = Engine(target, drafter, config=EngineConfig(block_size=4, num_blocks=64))
        run(engine, [prompt], replace(GREEDY, **params))
        return drafts.trees[0].tokens

    for options, shows, asks, shared in (
        ({}, {}, {}, True),
        ({}, {"cache_salt": "a"}, {"cache_salt": "a"}, True),
        ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, False),
        ({}, {"cache_salt": "a"}, {}, False),
        ({}, {"store": False}, {}, False),
        ({}, {"store": False, "cache_salt": "a"}, {"cache_salt": "a"}, False),
        ({"shared": False}, {}, {}, False),
    ):
        make = {"first": False, "floor": 0.0, "contexts": 1024, **options}
        alone = first_draft(RecyclingDrafter(**make), **asks)
        drafter = RecyclingDrafter(**make)
        first_draft(drafter, **shows)
        assert (first_draft(Rebound(drafter), **asks) != alone) == shared, (options, shows, asks)


class Rebound(RecyclingDrafter):
    """Goes on with another one's table in another engine."""

    def __init__(self, known: RecyclingDrafter) -> None:
        super().__init__(first=False, floor=0.0, contexts=1024)
        self.outlives, self._other = known.outlives, known._table

    def bind(self, target: TargetHandle) -> Any:
        needs = super().bind(target)
        self._table = self._other
        return needs


def test_nothing_of_a_private_text_outlives_it() -> None:
    """Neither its tokens nor its name stay in the table's memory."""
    drafter = RecyclingDrafter(first=False, contexts=256)
    engine = Engine(llama(0), drafter, config=EngineConfig(block_size=4, num_blocks=64))
    request = add(engine, PROMPTS[2], replace(GREEDY, store=False))
    engine.step()
    engine.step()
    engine.step()
    entries = drafter._known._entries.view(np.uint64).reshape(-1, 8)  # type: ignore[union-attr]
    assert (entries[:, 0] == PRIVATE | request.id).any()
    engine.abort(request)
    assert not entries.any()
    assert drafter._texts == {}


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_behind_but_the_table() -> None:
    drafter = bound(contexts=64)
    before = drafter.memory()
    for request_id in range(10_000):
        tokens = [request_id % VOCAB_SIZE, request_id // 7 % VOCAB_SIZE, 3]
        asked = replace(draft_request(tokens, request_id=request_id), salt=str(request_id % 50))
        drafter.propose([asked])
        drafter.observe([outcome(request_id, 2, [3], DraftTree(), (), [row(1)])])
        drafter.end(request_id, tokens)
    assert drafter.memory() == before
    assert drafter._texts == {}


def test_a_draft_of_another_gains_nodes_below_and_beside() -> None:
    drafter = bound(floor=0.0, max_nodes=12)
    text = [1, 2, 3, 4, 1, 5, 6, 1]
    tree = DraftTree((5, 3), (-1, -1), kinds=(1, 2), chances=(0.9, 0.4))
    [more] = drafter.extend([draft_request(text)], [tree])
    assert (more.tokens[:2], more.parents[:2], more.kinds[:2], more.chances[:2]) == (
        (5, 3),
        (-1, -1),
        (1, 2),
        (0.9, 0.4),
    )
    added = set(zip(more.parents[2:], more.tokens[2:], strict=True))
    assert {(-1, 2), (0, 6), (1, 4)} <= added
    assert len(set(zip(more.parents, more.tokens, strict=True))) == len(more)
    [deep] = drafter.extend([draft_request(text, 1)], [DraftTree((5,), (-1,))])
    assert deep.depth == 1
    [new] = drafter.extend([draft_request(text)], [DraftTree()])
    assert edges(new, 1) == edges(drafter.propose([draft_request(text)])[0], 1)


@pytest.mark.parametrize("vocab_size", [5, 300])
def test_first_rows_are_what_the_model_says_after_a_token_alone(vocab_size: int) -> None:
    module = llama_module(3, vocab_size=vocab_size)
    count = min(8, vocab_size)
    found = first_rows(llama(3, vocab_size=vocab_size), 2, count)
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor([[2, token] for token in range(vocab_size)])).logits[:, -1]
    assert found.tolist() == logits.topk(count).indices.tolist()


def test_first_rows_are_kept_for_the_model_that_said_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    passes: list[int] = []
    inner = rows_of_tokens._Alone.rows

    def counted(self: Any, tokens: range, hidden: tuple[int, ...] = ()) -> Any:
        passes.append(len(tokens))
        return inner(self, tokens, hidden)

    monkeypatch.setattr(rows_of_tokens._Alone, "rows", counted)
    made = first_rows(llama(4, vocab_size=600), 0, 8)
    assert passes == [256, 256, 256, 88]
    again = first_rows(llama(4, vocab_size=600), 0, 8)
    assert passes[4:] == [256]
    assert np.array_equal(made, again)
    assert not np.array_equal(first_rows(llama(5, vocab_size=600), 0, 8), made)
    assert len(passes) == 9


def test_kept_rows_that_are_no_rows_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = first_rows(llama(6), 0, 8)
    for wrong in (made[:5], made + VOCAB_SIZE, made - 1 - made.max()):
        monkeypatch.setattr(rows_of_tokens, "recall", lambda path, wrong=wrong: (wrong.tobytes(), {}))
        with pytest.warns(RuntimeWarning):
            assert np.array_equal(first_rows(llama(6), 0, 8), made)


def test_rows_that_ship_are_for_their_tokenizer_alone() -> None:
    assert shipped_rows(Vocabulary.of(49152, {"a": 0}), 8) is None
    assert shipped_rows(Vocabulary.of(VOCAB_SIZE, None), 8) is None


def test_a_model_whose_rows_take_long_does_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    target = llama(0)
    assert is_cheap(target)
    assert bound(target, first=None).memory() > bound(target, first=False).memory()
    monkeypatch.setattr(rows_of_tokens, "CHEAP", {"cpu": 1e3, "gpu": 1e3})
    assert not is_cheap(target)
    assert bound(target, first=None).memory() == bound(target, first=False).memory()
    assert bound(target, first=True).memory() > bound(target, first=False).memory()


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("floor", [None, True, "0.1", -0.1, 1.0, math.nan, 1j, [0.1]]),
        ("contexts", [None, True, 0, 4, 63, 100, 2**25, 1.5, "64"]),
        ("shared", [None, 0, 1, "true", [True]]),
        ("first", [0, 1, "true", [True]]),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=f"{option} = "):
            RecyclingDrafter(**{option: value})


def test_a_vocabulary_too_large_for_the_table_is_refused() -> None:
    target = llama(0)
    target.vocab_size = 2**20 + 1  # type: ignore[misc]
    with pytest.raises(ConfigError, match="at most 1048576 tokens"):
        RecyclingDrafter(first=False).bind(TargetHandle(target))


@pytest.mark.parametrize("shared", [True, False])
def test_rules_whose_text_depends_on_the_draft_may_not_judge_it(shared: bool) -> None:
    """Rows of refused nodes are not seen again by a request that begins anew."""
    warm = SamplingParams(max_tokens=6, temperature=1.0, seed=1)
    drafter = RecyclingDrafter(shared=shared, first=False)
    with pytest.raises((ConfigError, InvalidRequestError)):
        Engine(llama(0), drafter, "multiround").make_request([1, 2], warm)


def test_the_log_odds_are_of_every_source_and_a_better_rank_counts_more() -> None:
    assert len(odds.RANKS) == len(odds.NAMES) == SOURCES
    assert all(len(ranks) == WIDTH + 1 for ranks in odds.RANKS)
    assert len(odds.LENGTHS) == ORDER + 1
    assert all(ranks[0] > ranks[7] > ranks[WIDTH] - 1 for ranks in odds.RANKS)


def test_texts_are_those_of_plain_decoding_on_the_native_backend() -> None:
    plain = outputs(run(Engine(NativeModel(llama_module(0)), NoDrafter()), PROMPTS, GREEDY))
    for options in ({}, {"max_nodes": 30, "floor": 0.0}, {"first": True, "num_draft_tokens": 2}):
        drafter = RecyclingDrafter(**{"first": False, **options})
        assert outputs(run(Engine(NativeModel(llama_module(0)), drafter), PROMPTS, GREEDY)) == plain
