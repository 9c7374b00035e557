"""The suffix drafter: what it drafts from, what it keeps of whom, and that a store brings it back."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specdec import ConfigError, DraftRequest, DraftTree, Engine, EngineConfig, SamplingParams
from specdec.drafters.base import TargetHandle
from specdec.drafters.suffix import ASSUMED, SuffixDrafter
from specdec.stores import Store, StoreError, Vocabulary, read, write
from tests.drafting import draft_request
from tests.engines import add, drain, run
from tests.tiny import VOCAB_SIZE, llama

ANSWER = [11, 12, 13, 14, 15, 16]
TARGET = TargetHandle(llama(0))


def asked(tokens: Sequence[int], request_id: int = 0, **fields: Any) -> DraftRequest:
    made = draft_request(tokens, fields.pop("max_depth", 8), request_id)
    return DraftRequest(**{**vars(made), **fields})


def drafted(drafter: SuffixDrafter, tokens: Sequence[int], request_id: int = 0, **fields: Any) -> DraftTree:
    [tree] = drafter.propose([asked(tokens, request_id, **fields)])
    return tree


def answered(drafter: SuffixDrafter, prompt: Sequence[int], answer: Sequence[int], number: int, **fields: Any) -> None:
    """A request that is asked about once, before its answer, and ends."""
    drafter.propose([asked(prompt, number, num_prompt_tokens=len(prompt), **fields)])
    drafter.end(number, [*prompt, *answer])


def patient(**options: Any) -> SuffixDrafter:
    """Drafts whatever it knows, however unlikely."""
    return SuffixDrafter(**{"floor": 0.0, **options})


def paths(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tree.prefix(node) for node in range(len(tree))}


# ------------------------------------------------------------------------------------------------------- what it drafts
def test_a_text_that_repeats_itself_is_followed_token_by_token() -> None:
    drafter = SuffixDrafter()
    text = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    for end in range(11, 14):
        tree = drafted(drafter, [*text, 4, 5, 6][:end])
        assert tree.tokens[:3] == tuple([4, 5, 6, 7, 8, 1][end - 11 : end - 8])
    assert tree.q is None
    assert all(0 < chance <= 1 for chance in tree.chances)
    assert len(tree.kinds) == len(tree)


def test_a_text_that_grows_is_drafted_for_as_if_it_had_been_there_at_once() -> None:
    draw = random.Random(0)
    text = [draw.randrange(4) for _ in range(120)]
    grown = SuffixDrafter(shared=False)
    for end in range(1, 120):
        trees = [drafted(each, text[:end]) for each in (grown, SuffixDrafter(shared=False))]
        assert (trees[0].tokens, trees[0].chances, trees[0].kinds) == (
            trees[1].tokens,
            trees[1].chances,
            trees[1].kinds,
        )


def test_its_size_is_what_it_stated() -> None:
    draw = random.Random(1)
    for _ in range(60):
        options = {"num_draft_tokens": draw.randint(1, 9), "max_nodes": draw.randint(1, 20)}
        drafter = SuffixDrafter(**options, branches=draw.randint(1, 4), floor=0.0)
        depth = draw.randint(1, 12)
        tree = drafted(drafter, [draw.randrange(3) for _ in range(80)], max_depth=depth)
        assert 0 < len(tree) <= drafter.max_nodes(depth) <= options["max_nodes"]
        assert tree.depth <= min(depth, drafter.num_draft_tokens)
        assert tree.shape.widest <= drafter.branches
    assert [SuffixDrafter(8, 12, branches).max_nodes(2) for branches in (1, 2, 3, 4)] == [2, 6, 12, 12]


def test_nothing_is_drafted_below_the_floor() -> None:
    text = [0, 1, 0, 2, 0, 3, 0]  # each of the three has 1 / (3 + 3 · 7^(1/5)) = 0.135
    assert len(drafted(SuffixDrafter(max_nodes=3, num_draft_tokens=1, floor=0.134), text)) == 3
    assert len(drafted(SuffixDrafter(max_nodes=3, num_draft_tokens=1, floor=0.136), text)) == 0


# ------------------------------------------------------------------------------------------------- what is kept of whom
def test_an_answer_helps_the_next_request_and_the_prompt_does_not() -> None:
    drafter = patient()
    answered(drafter, [1, 2, 3], ANSWER, 0)
    assert drafted(drafter, [9, 11, 12], 1).tokens[:3] == (13, 14, 15)
    assert len(drafted(drafter, [9, 1, 2], 2)) == 0


def test_the_requests_own_text_comes_first() -> None:
    drafter = patient(num_draft_tokens=1)
    answered(drafter, [1], [5, 6], 0)
    tree = drafted(drafter, [5, 7, 5], 1)
    assert tree.tokens == (7, 6)
    assert tree.chances[0] > tree.chances[1]


def test_salts_share_nothing() -> None:
    drafter = patient()
    answered(drafter, [1], ANSWER, 0, salt="a")
    assert len(drafted(drafter, [11, 12], 1, salt="b")) == 0
    assert len(drafted(drafter, [11, 12], 2)) == 0
    assert drafted(drafter, [11, 12], 3, salt="a").tokens[0] == 13


def test_a_request_that_opted_out_leaves_nothing_behind(tmp_path: Path) -> None:
    """No token of it is in a store, in memory or in its file."""
    drafter = patient()
    drafter.bind(TARGET)
    answered(drafter, [1, 2], [21, 22, 23, 24], 0, store=False)
    answered(drafter, [3, 4], ANSWER, 1)
    assert len(drafted(drafter, [21, 22], 2)) == 0
    drafter.save(tmp_path / "kept")
    assert list(read(tmp_path / "kept").texts()) == [ANSWER]
    tokens = np.frombuffer((tmp_path / "kept").read_bytes(), np.uint16)
    assert set(ANSWER) <= set(tokens.tolist())
    pairs = set(pairwise(tokens.tolist()))
    assert not {(21, 22), (22, 23), (23, 24), (1, 2), (3, 4)} & pairs


def test_nothing_is_kept_of_a_request_that_it_was_never_asked_about() -> None:
    """It does not know whether it may."""
    drafter = patient()
    drafter.end(0, [1, 2, *ANSWER])
    assert len(drafted(drafter, [11, 12], 1)) == 0


def test_an_answer_is_kept_whole_whenever_its_first_draft_was() -> None:
    drafter = patient()
    drafter.bind(TARGET)
    drafter.propose([asked([1, 2, *ANSWER[:2]], num_prompt_tokens=2)])
    drafter.forget(0)
    drafter.propose([asked([1, 2, *ANSWER[:3]], num_prompt_tokens=2)])
    drafter.end(0, [1, 2, *ANSWER])
    assert [list(text) for text in drafter._answers.texts("")] == [ANSWER]


def test_an_engine_keeps_the_answers_and_no_prompt(tmp_path: Path) -> None:
    """Aborted ones too, as far as they were committed."""
    drafter = SuffixDrafter()
    engine = Engine(TARGET.model, drafter, config=EngineConfig(num_blocks=64, max_num_seqs=3))
    params = [SamplingParams(max_tokens=9), SamplingParams(max_tokens=9, store=False), SamplingParams(max_tokens=9)]
    requests = [add(engine, [1, 2, 1, 2, number], one) for number, one in enumerate(params)]
    while len(requests[2].output) < 4:
        engine.step()
    engine.abort(requests[2])
    drain(engine)
    drafter.save(tmp_path / "kept")
    assert sorted(read(tmp_path / "kept").texts()) == sorted([requests[0].output, requests[2].output])


def test_without_sharing_requests_know_of_their_own_text_alone() -> None:
    drafter = SuffixDrafter(shared=False)
    answered(drafter, [1], ANSWER, 0)
    assert len(drafted(drafter, [11, 12], 1)) == 0
    assert (drafter.shares, patient().shares) == (False, True)


@pytest.mark.parametrize("rule", ["token", "block", "traversal"])
def test_rules_that_see_the_draft_judge_it_unless_it_shares(rule: str) -> None:
    config = EngineConfig(num_blocks=32, max_num_seqs=2)
    warm = SamplingParams(max_tokens=6, temperature=1.0, seed=1)
    [request] = run(Engine(TARGET.model, SuffixDrafter(branches=1, shared=False), rule, config), [[1, 2, 1, 2]], warm)
    assert request.error is None
    with pytest.raises(ConfigError):
        Engine(TARGET.model, SuffixDrafter(branches=1), rule, config).make_request([1, 2, 1, 2], warm)


@pytest.mark.slow
def test_ten_thousand_requests_leave_no_more_than_the_bound() -> None:
    drafter, draw = SuffixDrafter(max_tokens=2000), random.Random(0)
    held = 0
    for number in range(10_000):
        prompt = [draw.randrange(64) for _ in range(draw.randint(1, 12))]
        salt, store = f"{draw.randrange(4)}", draw.random() < 0.8
        answered(drafter, prompt, [draw.randrange(64) for _ in range(6)], number, salt=salt, store=store)
        if number == 1000:
            held = drafter.memory()
    assert held > 0
    assert drafter.memory() <= 2 * held
    assert not drafter._own


# ---------------------------------------------------------------------------------------------------------------- files
def test_a_store_brings_back_what_was_known(tmp_path: Path) -> None:
    first = patient()
    first.bind(TARGET)
    for number in range(6):
        answered(first, [60], [number, *ANSWER, number + 30], number)
    first.save(tmp_path / "one")
    second = patient(store=str(tmp_path / "one"))
    second.bind(TARGET)
    assert second.memory() > 0
    for salt in ("", "other"):
        assert drafted(second, [2, 11, 12], 0, salt=salt).tokens[:4] == (13, 14, 15, 16)
    answered(second, [60], [40, 41, 42], 9)
    second.save(tmp_path / "two")
    texts = list(read(tmp_path / "two").texts())
    assert texts == [*read(tmp_path / "one").texts(), [40, 41, 42]]


def test_salted_answers_are_saved_only_when_asked_for(tmp_path: Path) -> None:
    drafter = patient()
    drafter.bind(TARGET)
    answered(drafter, [1], ANSWER, 0, salt="a")
    drafter.save(tmp_path / "all")
    drafter.save(tmp_path / "a", salt="a")
    assert [list(read(tmp_path / name).texts()) for name in ("all", "a")] == [[], [ANSWER]]


def test_of_a_large_store_the_latest_texts_are_read(tmp_path: Path) -> None:
    write(tmp_path / "large", Store.of([[1, 2, 3], [4, 5, 6], [7, 8, 9]], Vocabulary.of_tokenizer(VOCAB_SIZE, None)))
    drafter = patient(store=str(tmp_path / "large"), max_tokens=7)
    drafter.bind(TARGET)
    assert [len(drafted(drafter, [start], start)) for start in (1, 4, 7)] == [0, 2, 2]


def test_the_stock_serves_targets_of_its_tokenizer_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for size, known in ((VOCAB_SIZE, 5), (VOCAB_SIZE + 1, 0)):
        write(tmp_path / "stock", Store.of([ANSWER], Vocabulary.of_tokenizer(size, None)))
        monkeypatch.setattr("specdec.stores.stock.STOCK", tmp_path / "stock")
        drafter = patient()
        drafter.bind(TARGET)
        assert len(drafted(drafter, ANSWER[:1])) == known
    write(tmp_path / "stock", Store.of([ANSWER], Vocabulary.of_tokenizer(VOCAB_SIZE, None)))
    drafter = patient(store=None)
    drafter.bind(TARGET)
    assert len(drafted(drafter, ANSWER[:1])) == 0


def test_a_store_that_is_not_there_or_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        patient(store=str(tmp_path / "none")).bind(TARGET)
    write(tmp_path / "foreign", Store.of([[1, 2]], Vocabulary.of(VOCAB_SIZE, {"a": 1})))
    with pytest.raises(StoreError, match="another tokenizer"):
        patient(store=str(tmp_path / "foreign")).bind(TARGET)
    with pytest.raises(ConfigError, match="no target yet"):
        patient().save(tmp_path / "early")


# ---------------------------------------------------------------------------------------------- others' drafts, options
def test_it_goes_on_where_another_drafts_end() -> None:
    drafter = patient()
    text = [1, 2, 3, 4, 5, 1, 2]
    given = DraftTree((3, 9), (-1, -1), None, (7, 8), (0.9, 0.05))
    [tree] = drafter.extend([asked(text)], [given])
    assert (tree.tokens[:2], tree.parents[:2], tree.kinds[:2], tree.chances[:2]) == (
        (3, 9),
        (-1, -1),
        (7, 8),
        (0.9, 0.05),
    )
    assert {(3, 4), (3, 4, 5)} <= paths(tree)
    assert len(paths(tree)) == len(tree)
    [deep] = drafter.extend([asked(text, max_depth=2)], [given])
    assert deep.depth == 2
    [plain] = drafter.extend([asked(text)], [DraftTree((3,), (-1,))])
    assert plain.chances[0] == ASSUMED
    assert plain.kinds[0] == DraftTree((3,), (-1,)).node_kinds[0]


NOT_NUMBERS: list[Any] = ["0.5", None, True, math.nan, math.inf, -0.1, 1.0, 2, 1j, [0.1]]


def test_options_that_cannot_work_are_refused_by_name() -> None:
    for value in NOT_NUMBERS:
        with pytest.raises(ConfigError, match=r"floor = .* Give a number from 0 to less than 1"):
            SuffixDrafter(floor=value)
    for value in (None, 0, 1, "yes", []):
        with pytest.raises(ConfigError, match=r"shared = .* Give True or False"):
            SuffixDrafter(shared=value)  # type: ignore[arg-type]
    for value in ("", 3, b"x", True, ["a"], Path("a")):
        with pytest.raises(ConfigError, match=r"store = .* Give the path of a file"):
            SuffixDrafter(store=value)  # type: ignore[arg-type]
    for option in ("max_nodes", "max_tokens", "num_draft_tokens", "branches"):
        for value in (0, -1, 2.5, "5", None, True, 10**10):
            with pytest.raises(ConfigError, match=rf"{option} = .* cannot work. Give an integer"):
                SuffixDrafter(**{option: value})
