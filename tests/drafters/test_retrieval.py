"""The retrieval drafter: what it drafts from a store, that it keeps its contract, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specdec import ConfigError, EngineConfig, SamplingParams
from specdec.drafters.base import TargetHandle
from specdec.drafters.none import NoDrafter
from specdec.drafters.retrieval import RetrievalDrafter
from specdec.engine import Engine
from specdec.models.base import CausalLM
from specdec.stores import Store, StoreError, Vocabulary, write
from specdec.testing import check_drafter
from specdec.verify.tree import KINDS, ROOT, DraftTree
from tests.drafting import draft_request
from tests.engines import run
from tests.tiny import VOCAB_SIZE, llama

TEXTS = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 5], [7, 2, 6]]
VOCABULARY = Vocabulary.of(VOCAB_SIZE, None)


def bound(texts: Sequence[Sequence[int]] = TEXTS, **options: Any) -> RetrievalDrafter:
    drafter = RetrievalDrafter(Store.of(texts, VOCABULARY), **options)
    drafter.bind(TargetHandle(llama(0)))
    return drafter


def branches(tree: DraftTree) -> list[tuple[int, ...]]:
    return [tree.prefix(node) for node in range(len(tree))]


def answers(target: CausalLM) -> Store:
    """A store of the target's own texts: some of its drafts are accepted."""
    prompts = [[n] for n in range(min(8, target.vocab_size))]
    requests = run(Engine(target, NoDrafter()), prompts, SamplingParams(max_tokens=24))
    texts = [[*prompt, *one.output] for prompt, one in zip(prompts, requests, strict=True)]
    return Store.of(texts, Vocabulary.of(target.vocab_size, None), ordered=True)


def test_what_followed_in_the_store_is_drafted() -> None:
    [tree] = bound().propose([draft_request([9, 1, 2])])
    assert branches(tree) == [(3,), (3, 5), (3, 4)]
    spread = 3 + 1 + 1.5  # three occurrences of 1 2, one follower, doubt about a match of two
    assert tree.chances == (3 / spread, 2 / (3 + 2 + 1), 1 / (3 + 2 + 1))
    assert tree.q is None


def test_a_shorter_match_serves_where_there_is_no_longer_one() -> None:
    [tree] = bound().propose([draft_request([8, 2])])
    assert set(branches(tree)) == {(3,), (3, 5), (6,)}
    for tokens in ([1, 8], [4]):
        assert len(bound().propose([draft_request(tokens)])[0]) == 0
    assert len(bound(min_match=2).propose([draft_request([8, 2])])[0]) == 0


def test_a_draft_keeps_to_what_is_asked_for() -> None:
    text = list(range(10, 40))
    for options, depth, want in (
        ({"num_draft_tokens": 5, "max_nodes": 9, "floor": 0.0}, 8, 5),
        ({"num_draft_tokens": 9, "max_nodes": 4, "floor": 0.0}, 8, 4),
        ({"num_draft_tokens": 9, "max_nodes": 9, "floor": 0.0}, 2, 2),
        ({"num_draft_tokens": 9, "max_nodes": 9, "floor": 0.9}, 8, 0),
    ):
        drafter = bound([text], **options)
        [tree] = drafter.propose([draft_request(text[:4], depth)])
        assert list(tree.tokens) == text[4 : 4 + want]
        assert len(tree) <= drafter.max_nodes(depth)
    assert drafter.max_nodes(0) == 0
    chain = bound(branches=1)
    assert not chain.trees
    assert branches(chain.propose([draft_request([9, 1, 2])])[0]) == [(3,), (3, 5)]
    assert bound().trees


def test_a_draft_of_another_drafter_grows() -> None:
    given = DraftTree((3, 8), (ROOT, ROOT), kinds=(700, 701), chances=(0.9, 0.05))
    [tree] = bound().extend([draft_request([9, 1, 2])], [given])
    assert branches(tree) == [(3,), (8,), (3, 5), (3, 4)]
    assert tree.kinds[:2] == (700, 701)
    assert tree.chances[:2] == (0.9, 0.05)
    [beside] = bound().extend([draft_request([9, 1, 2])], [DraftTree((8,), (ROOT,))])
    assert branches(beside)[:2] == [(8,), (3,)]
    [whole] = bound().extend([draft_request([9, 1, 2])], [DraftTree()])
    assert branches(whole) == branches(bound().propose([draft_request([9, 1, 2])])[0])


def test_nodes_of_one_kind_have_matches_and_chances_alike() -> None:
    texts = [[1, *[2] * n, 3] for n in range(20)] + [[4, 5]] * 30
    kinds = set[int]()
    for context in ([1], [1, *[2] * 9], [4], [2]):
        [tree] = bound(texts, floor=0.0).propose([draft_request(context)])
        kinds.update(tree.kinds)
    assert len(kinds) > 4
    assert all(0 <= kind < KINDS for kind in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("branches", [1, 4])
def test_the_drafter_keeps_its_contract(branches: int) -> None:
    check_drafter(lambda target: RetrievalDrafter(answers(target), branches=branches), seeds=(0,), quick=True)


@pytest.mark.slow
def test_the_drafter_keeps_its_contract_at_length() -> None:
    check_drafter(lambda target: RetrievalDrafter(answers(target), min_match=2, max_nodes=24, floor=0.0))


def test_texts_that_the_store_knows_take_fewer_passes() -> None:
    target = llama(0)
    drafter = RetrievalDrafter(answers(target))
    [request] = run(Engine(target, drafter, config=EngineConfig(num_blocks=64)), [[3]], SamplingParams(max_tokens=24))
    assert request.stats.mean_accepted_length > 2


def test_the_store_is_a_file_or_a_store(tmp_path: Path) -> None:
    write(tmp_path / "a.store", Store.of(TEXTS, VOCABULARY, ordered=True))
    drafter = RetrievalDrafter(str(tmp_path / "a.store"))
    drafter.bind(TargetHandle(llama(0)))
    want = bound()
    for tokens in ([9, 1, 2], [2], [5]):
        ours, theirs = (one.propose([draft_request(tokens)])[0] for one in (drafter, want))
        assert (ours.tokens, ours.parents, ours.chances) == (theirs.tokens, theirs.parents, theirs.chances)
    assert drafter.memory() == want.memory() == 19 * (2 + 4)


def test_a_store_for_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0})
    write(tmp_path / "a.store", Store.of(TEXTS, VOCABULARY))
    for store in (str(tmp_path / "a.store"), Store.of(TEXTS, VOCABULARY)):
        drafter = RetrievalDrafter(store)
        with pytest.raises(StoreError, match=r"tokens have other ids .* `specdec store build`"):
            drafter.bind(TargetHandle(llama(0), tokenizer))
    with pytest.raises(StoreError, match="There is no store at"):
        RetrievalDrafter(str(tmp_path / "b.store")).bind(TargetHandle(llama(0)))


@pytest.mark.parametrize(
    ("vocabulary", "known"),
    [
        (VOCABULARY, 3),
        (Vocabulary.of(VOCAB_SIZE + 1, None), 0),
        (Vocabulary(2 * VOCAB_SIZE, VOCABULARY.fingerprint), 0),
    ],
    ids=["of the target", "of another tokenizer", "with tokens that the target lacks"],
)
def test_the_stock_serves_targets_of_its_tokenizer_and_others_are_told(
    vocabulary: Vocabulary,
    known: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [*TEXTS, [vocabulary.size - 1]]
    write(tmp_path / "stock", Store.of(texts, vocabulary, ordered=True, note={"tokenizer": "theirs"}))
    monkeypatch.setattr("specdec.stores.stock.STOCK", tmp_path / "stock")
    drafter = RetrievalDrafter()
    drafter.bind(TargetHandle(llama(0)))
    assert len(drafter.propose([draft_request([9, 1, 2])])[0]) == known
    assert drafter.memory() == (0 if not known else 6 * 21)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (not known)
    assert all("drafts nothing. Make a store with `specdec store build`" in each for each in told)


def test_options_that_cannot_work_are_refused() -> None:
    for floor in (-0.1, 1.1, math.nan, None, "0.1"):
        with pytest.raises(ConfigError, match=r"floor = .* cannot work. Give a number from 0 to 1"):
            RetrievalDrafter(floor=floor)  # type: ignore[arg-type]
    for store in ("", 3, b"x", ["x"], None):
        with pytest.raises(ConfigError, match=r"store = .* cannot work. Give the path"):
            RetrievalDrafter(store)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_match = 5 is above max_match = 4"):
        RetrievalDrafter(min_match=5, max_match=4)
    with pytest.raises(ConfigError, match=r"max_match = 32 cannot work. Give an integer from 1 to 31"):
        RetrievalDrafter(max_match=32)
