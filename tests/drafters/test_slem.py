"""String-level exact match: a draft is the draft model's text in the target's tokens, and changes no law.

Two toy tokenizers with other merges over the same two letters; target and draft are tables of fractions, so that every
draft, every verdict and every text can be enumerated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from specdec import ConfigError, Drafter, DraftTree, SamplingParams, TargetHandle
from specdec.cache import PagedCache
from specdec.drafters import realign
from specdec.drafters.slem import SlemDrafter
from specdec.drafters.tli import TliDrafter
from specdec.engine import Engine, EngineConfig
from specdec.proof.cases import table
from specdec.proof.exact import Setting, Tokens, expected_accepted, joint_law, target_law
from specdec.registry import RULES
from specdec.verify.rational import ONE, ZERO, Row
from tests.drafting import draft_request
from tests.engines import run
from tests.othertokenizers import with_tokenizer
from tests.tablemodel import TableModel
from tests.toytokenizers import of_merges

TARGET = of_merges("ab", [("a", "b"), ("b", "b")])
DRAFT = of_merges("ba", [("b", "a"), ("b", "b")])
SPELT, DRAFT_SPELT = ("a", "b", "ab", "bb"), ("b", "a", "ba", "bb")
PROMPT = (0, 1)
P, Q = table(51, 4), table(54, 4)


def made(draft: TableModel, gamma: int = 3, num_blocks: int = 16) -> SlemDrafter:
    """As an engine has it."""
    drafter = SlemDrafter(draft, gamma, draft_tokenizer=DRAFT)
    target = TableModel(P, 4)
    drafter.bind(TargetHandle(target, TARGET))
    drafter.attach(PagedCache(target.kv_layout, num_blocks, 4), ())
    return drafter


def proposing(drafter: SlemDrafter) -> Callable[[Tokens], DraftTree]:
    def propose(text: Tokens) -> DraftTree:
        [tree] = drafter.propose([draft_request([*PROMPT, *text], vocab_size=4)])
        return tree

    return propose


def setting(drafter: SlemDrafter, max_tokens: int = 4) -> Setting:
    return Setting("slem", lambda text: P((*PROMPT, *text)), propose=proposing(drafter), max_tokens=max_tokens)


def split(text: str, merges: Sequence[str], spelt: Sequence[str]) -> list[int]:
    """The text in a toy tokenizer's tokens: each pair of letters in turn, from the left."""
    letters = list(text)
    for pair in merges:
        at = 0
        while at < len(letters) - 1:
            if letters[at] + letters[at + 1] == pair:
                letters[at : at + 2] = [pair]
            at += 1
    return [spelt.index(piece) for piece in letters]


@pytest.mark.parametrize("name", ["greedy", "gumbel", "token", "block", "traversal"])
def test_the_law_of_texts_is_exactly_the_targets(name: str) -> None:
    """By exact match, under which a text does not depend on the draft, and under the other rules, for which q is
    one-hot."""
    rule, drafted = RULES.create(name), setting(made(TableModel(Q, 4)))
    assert joint_law(rule, drafted) == target_law(drafted, rule.emits)
    assert expected_accepted(rule, drafted) > 0


def test_the_draft_is_the_draft_models_greedy_text_in_the_targets_tokens() -> None:
    """Every text of five tokens: written on by hand, one letter after the other."""
    propose = proposing(made(TableModel(Q, 4)))
    drafted = 0
    for number in range(4**4):
        text = tuple(number // 4**place % 4 for place in range(4))
        before = "".join(SPELT[token] for token in (*PROMPT, *text))
        read = split(before, ("ba", "bb"), DRAFT_SPELT)
        said: list[int] = []
        for _ in range(3):
            row = Q((*read, *said))
            said.append(row.index(max(row)))
        written = "".join(DRAFT_SPELT[token] for token in said)
        tree = propose(text)
        assert tree.is_chain
        assert tree.q is None
        assert written.startswith("".join(SPELT[token] for token in tree.tokens))
        whole = split(before + written, ("ab", "bb"), SPELT)
        ends = {len("".join(SPELT[token] for token in whole[:n])): n for n in range(len(whole) + 1)}
        if len(before) in ends:  # no token goes across
            assert list(tree.tokens) == whole[ends[len(before)] :][:3]
            drafted += 1
    assert 50 < drafted < 250


def writes(spelt: Sequence[str], pieces: Sequence[str]) -> Callable[[Tokens], Row]:
    """A model that writes abbabb…, each time by the first of the pieces that is right."""

    def law(tokens: Tokens) -> Row:
        written = len("".join(spelt[token] for token in tokens))
        rest = ("abb" * 3)[written % 3 :]
        said = spelt.index(next(piece for piece in pieces if rest.startswith(piece)))
        return tuple(ONE if token == said else ZERO for token in range(len(spelt)))

    return law


LETTERS = ("b", "a")
"""A target whose tokenizer has no merges: its texts are what its tokenizer would write."""


@pytest.mark.parametrize("kind", [SlemDrafter, TliDrafter])
def test_a_draft_model_that_writes_what_the_target_does_is_always_right(kind: type[SlemDrafter | TliDrafter]) -> None:
    """τ = γ + 1, and each draft begins with the two tokens that are new: the last one drafted, and the target's own."""
    draft = TableModel(writes(("a", "b"), ("a", "b")), 2)
    drafter = with_tokenizer(kind(draft, 3, draft_tokenizer=of_merges("ab", [])), of_merges("ba", []))
    assert_always_right(drafter)
    assert draft.rows == [1 + 4 + 5, 3, 3, *[6, 3, 3] * 3]


@pytest.mark.parametrize("pieces", [("a", "b"), ("ba", "bb", "b", "a"), ("a", "bb", "b")])
def test_a_draft_model_that_writes_the_targets_text_in_other_tokens_is_always_right(pieces: Sequence[str]) -> None:
    """Whether or not it reads its own text as it wrote it."""
    draft = TableModel(writes(DRAFT_SPELT, pieces), 4)
    assert_always_right(with_tokenizer(SlemDrafter(draft, 3, draft_tokenizer=DRAFT), of_merges("ba", [])))


def assert_always_right(drafter: Drafter) -> None:
    """In an engine, with three requests."""
    target, config = TableModel(writes(LETTERS, ("a", "b")), 2), EngineConfig(block_size=4, num_blocks=64)
    prompts = [[1], [1, 0, 0, 1], [1, 0, 0, 1, 0]]
    requests = run(Engine(target, drafter, config=config), prompts, SamplingParams(max_tokens=16))
    for prompt, request in zip(prompts, requests, strict=True):
        assert request.output == [(1, 0, 0)[place % 3] for place in range(len(prompt), len(prompt) + 16)]
        found = request.stats.of(drafter.name)
        assert (found.steps, found.drafted_tokens, found.accepted_tokens) == (4, 12, 12)


def test_a_draft_that_begins_before_the_committed_texts_end_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draft can change a law under exact match. What such a mutant costs is its drafts."""
    right = expected_accepted(RULES.create("greedy"), always_right())
    monkeypatch.setattr(realign, "_start", lambda encoded, before, text: len(before) - 1)
    assert right == 3
    assert expected_accepted(RULES.create("greedy"), always_right()) == 0


def always_right() -> Setting:
    """Target and draft write the same; the target after abb."""
    target = TableModel(writes(LETTERS, ("a", "b")), 2)
    drafter = SlemDrafter(TableModel(writes(DRAFT_SPELT, ("a", "b")), 4), 3, draft_tokenizer=DRAFT)
    drafter.bind(TargetHandle(target, of_merges("ba", [])))
    drafter.attach(PagedCache(target.kv_layout, 16, 4), ())

    def propose(text: Tokens) -> DraftTree:
        [tree] = drafter.propose([draft_request([1, 0, 0, *text], vocab_size=2)])
        return tree

    return Setting("right", lambda text: target.law((1, 0, 0, *text)), propose=propose, max_tokens=9)


def test_the_draft_ends_before_a_special_token_of_the_draft_model() -> None:
    """It reads a b, and says b, the end, and b."""
    b, end = (ONE, ZERO, ZERO, ZERO, ZERO), (ZERO, ZERO, ZERO, ZERO, ONE)
    draft = TableModel(lambda text: end if len(text) == 3 else b, 5)
    drafter = SlemDrafter(draft, 3, draft_tokenizer=of_merges("ba", [("b", "a"), ("b", "b")], end="<end>"))
    drafter.bind(TargetHandle(TableModel(P, 4), TARGET))
    drafter.attach(PagedCache(draft.kv_layout, 16, 4), ())
    [tree] = drafter.propose([draft_request([0, 1], vocab_size=4)])
    assert tree.tokens == (1,)


def test_a_neighbour_that_cannot_be_drafted_for_costs_nobody_else() -> None:
    drafter = made(TableModel(Q, 4, max_context=20))
    requests = [draft_request([0] * length, request_id=length, vocab_size=4) for length in (17, 18, 5)]
    assert [len(tree) > 0 for tree in drafter.propose(requests)] == [True, False, True]


@pytest.mark.parametrize("asked", [1, 2, 9])
def test_no_draft_is_longer_than_was_asked_for(asked: int) -> None:
    [tree] = made(TableModel(Q, 4)).propose([draft_request(PROMPT, asked, vocab_size=4)])
    assert 0 < len(tree) <= min(asked, 3)


@pytest.mark.parametrize("missing", ["target", "draft"])
def test_both_tokenizers_are_needed(missing: str) -> None:
    drafter = SlemDrafter(TableModel(Q, 4), draft_tokenizer=None if missing == "draft" else DRAFT)
    with pytest.raises(ConfigError, match=r"The slem drafter needs the tokenizers of both models\."):
        drafter.bind(TargetHandle(TableModel(P, 4), None if missing == "target" else TARGET))
