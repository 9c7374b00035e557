"""Token-level intersection: q is the draft's own over the tokens that both have, and the text's law is the target's.

Two toy tokenizers with other merges over the same two letters; target and draft are tables of fractions, so that every
draft, every verdict and every text can be enumerated.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import pytest
import torch

from specdec import ConfigError, SamplingParams, TargetHandle
from specdec.cache import PagedCache
from specdec.drafters.tli import TliDrafter
from specdec.proof.cases import table
from specdec.proof.exact import Setting, Tokens, drafts, step_law, target_law
from specdec.registry import RULES
from specdec.verify.base import Rule
from specdec.verify.rational import ONE, ZERO, ExactDraft, Row, normalized
from specdec.verify.tree import ROOT, DraftTree, TreeShape
from tests.drafting import draft_request
from tests.tablemodel import TableModel
from tests.toytokenizers import of_merges

TARGET = of_merges("ab", [("a", "b"), ("b", "b")])
DRAFT = of_merges("cba", [("b", "a"), ("b", "b")])
SPELT, DRAFT_SPELT = ("a", "b", "ab", "bb"), ("c", "b", "a", "ba", "bb")
BOTH = {0: 2, 1: 1, 3: 4}
"""a, b and bb, by hand."""
PROMPT = (0, 1)
LENGTH = 3
P, Q = table(41, 4), table(42, 5)
WARM = SamplingParams(temperature=1.0)
CHAIN, FORK = TreeShape.chain(2), TreeShape((ROOT, ROOT, 0))


def told(tokens: Tokens) -> Tokens:
    """The text in the draft's tokens, by its merges: first every ba, then every bb."""
    letters = list("".join(SPELT[token] for token in tokens))
    for pair in ("ba", "bb"):
        at = 0
        while at < len(letters) - 1:
            if letters[at] + letters[at + 1] == pair:
                letters[at : at + 2] = [pair]
            at += 1
    return tuple(DRAFT_SPELT.index(piece) for piece in letters)


def own(committed: Tokens, path: Tokens) -> Row:
    """The draft's distribution over its own tokens."""
    return Q((*told((*PROMPT, *committed)), *(BOTH[token] for token in path)))


def restricted(committed: Tokens, path: Tokens) -> Row:
    """Over the target's tokens, without what is lost outside of the intersection."""
    row = own(committed, path)
    return tuple(row[BOTH[token]] if token in BOTH else ZERO for token in range(4))


def after(committed: Tokens, shape: TreeShape = CHAIN) -> Setting:
    """The step after a text: the draft's context is told anew from it, and goes on token by token."""
    return Setting(
        "tli",
        lambda text: P((*PROMPT, *text)),
        lambda text: normalized(restricted(committed, text[len(committed) :])),
        shape,
        max_tokens=LENGTH,
    )


Step = Callable[[Rule, Tokens], dict[Tokens, Fraction]]


def law(rule: Rule, step: Step) -> dict[Tokens, Fraction]:
    """The law of the whole text, step after step."""
    ended: dict[Tokens, Fraction] = {}
    open_texts: dict[Tokens, Fraction] = {(): ONE}
    while open_texts:
        text = min(open_texts, key=len)
        reached = open_texts.pop(text)
        for tokens, probability in step(rule, text).items():
            longer = after(text).cut((*text, *tokens))
            into = ended if len(longer) == LENGTH else open_texts
            into[longer] = into.get(longer, ZERO) + reached * probability
    return ended


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, CHAIN) for name in ("token", "block", "traversal", "gumbel")),
        *((name, FORK) for name in ("traversal", "gumbel", "rrs", "multiround")),
    ],
)
def test_the_law_of_texts_is_exactly_the_targets(name: str, shape: TreeShape) -> None:
    found = law(RULES.create(name), lambda rule, text: step_law(rule, after(text, shape), text))
    assert found == target_law(after(()))


def claims(row: Callable[[Tokens, Tokens], Row]) -> Step:
    """Drafts are drawn as they should be, and are said to come from another q."""

    def step(rule: Rule, text: Tokens) -> dict[Tokens, Fraction]:
        emitted: dict[Tokens, Fraction] = {}
        for draft, drawn in drafts(rule, after(text), text):
            q = [row(text, draft.tree.prefix(node)) for node in range(ROOT, len(draft.tree))]
            for (path, token), chance in rule.law(ExactDraft(draft.tree, draft.p, q)).items():
                tokens = (*(draft.tree.tokens[node] for node in path), token)
                emitted[tokens] = emitted.get(tokens, ZERO) + drawn * chance
        return emitted

    return step


def cut_outside(rule: Rule, text: Tokens) -> dict[Tokens, Fraction]:
    """Drafts are drawn over the draft's whole vocabulary, and end before a token that the target does not have."""
    emitted: dict[Tokens, Fraction] = {}
    ours = {theirs: token for token, theirs in BOTH.items()}
    depth = min(2, LENGTH - len(text) - 1)

    def judge(tree: DraftTree, reached: Fraction) -> None:
        p = [P((*PROMPT, *text, *tree.prefix(node))) for node in range(ROOT, len(tree))]
        q = [restricted(text, tree.prefix(node)) for node in range(ROOT, len(tree))]
        for (path, token), chance in rule.law(ExactDraft(tree, p, q)).items():
            tokens = (*(tree.tokens[node] for node in path), token)
            emitted[tokens] = emitted.get(tokens, ZERO) + reached * chance

    def grow(tokens: Tokens, reached: Fraction) -> None:
        if len(tokens) == depth:
            judge(DraftTree.chain(tokens), reached)
            return
        for theirs, mass in enumerate(own(text, tokens)):
            if theirs in ours:
                grow((*tokens, ours[theirs]), reached * mass)
            else:
                judge(DraftTree.chain(tokens), reached * mass)

    grow((), ONE)
    return emitted


def unmapped(committed: Tokens, path: Tokens) -> Row:
    """The draft's ids taken for the target's."""
    return normalized(own(committed, path)[:4])


BROKEN = {
    "not renormalised": claims(restricted),
    "drawn over the union": cut_outside,
    "without the map": claims(unmapped),
}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        *product(("token", "block"), BROKEN),
        ("traversal", "without the map"),  # its law normalises whatever it is given, so that the others are none
    ],
)
def test_a_draft_that_is_not_the_drafts_law_over_the_intersection_is_found_out(name: str, mistake: str) -> None:
    found = law(RULES.create(name), BROKEN[mistake])
    assert sum(found.values()) == 1
    assert found != target_law(after(()))


def made(draft: TableModel, shape: str = "chain", num_blocks: int = 16, max_batch_tokens: int = 512) -> TliDrafter:
    """As an engine has it, whose cache has so many blocks of four slots."""
    drafter = TliDrafter(draft, 2, choices=[[0, 0], [1]] if shape == "fork" else None, draft_tokenizer=DRAFT)
    target = TableModel(P, 4)
    drafter.bind(TargetHandle(target, TARGET, max_batch_tokens))
    drafter.attach(PagedCache(target.kv_layout, num_blocks, 4), ())
    return drafter


@pytest.mark.parametrize("shape", ["chain", "fork"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_drafters_q_is_that_law_after_every_text(shape: str, temperature: float) -> None:
    """One drafter for all texts, in an order in which each has to go back on the one before."""
    drafter, rule = made(TableModel(Q, 5), shape), "rrs" if shape == "fork" else "block"
    for committed in product(range(4), repeat=3):
        params = SamplingParams(temperature=temperature)
        [tree] = drafter.propose([draft_request([*PROMPT, *committed], rule=rule, params=params, vocab_size=4)])
        assert tree.depth == 2
        assert tree.q is not None
        for node, q in zip(tree.shape.inner, tree.q, strict=True):
            weights = [float(mass) ** (1 / temperature) for mass in restricted(committed, tree.prefix(node))]
            torch.testing.assert_close(q, torch.tensor([w / sum(weights) for w in weights]), atol=1e-6, rtol=0)


def test_what_the_draft_model_has_run_is_kept_as_far_as_the_text_begins_with_it() -> None:
    """Rows of each pass of the draft model, which reads `abb` as a bb, and `abba` as a b ba."""
    model = TableModel(lambda text: (ZERO, ZERO, ONE, ZERO, ZERO), 5)  # says a, whatever comes before
    drafter = made(model)

    def rows(*committed: int) -> list[int]:
        [tree] = drafter.propose([draft_request(committed, vocab_size=4)])
        assert tree.tokens == (0, 0)
        passes, model.rows = model.rows, []
        return passes

    assert rows(2, 1) == [2, 1]  # a bb, and the first a that was drafted
    assert rows(2, 1, 0) == [2, 1]  # b ba after a
    assert rows(2, 1, 0, 0) == [1, 1]  # a drafted a was kept, the next one was not run
    assert rows(2, 1, 0, 0, 0, 0) == [1, 1]
    assert rows(1) == [1, 1]  # another text


def test_the_pass_of_a_long_text_is_no_larger_than_the_targets() -> None:
    model = TableModel(Q, 5, max_context=400)
    drafter = made(model, max_batch_tokens=7)
    drafter.propose([draft_request([0] * 20, vocab_size=4)])
    assert model.rows == [7, 7, 6, 1]


def test_texts_that_do_not_fit_get_no_draft_and_their_neighbours_do() -> None:
    drafter = made(TableModel(Q, 5, max_context=20))
    requests = [draft_request([0] * length, request_id=length, vocab_size=4) for length in (18, 19, 5)]
    assert [len(tree) for tree in drafter.propose(requests)] == [2, 0, 2]


def test_where_blocks_are_short_drafts_stay_as_they_are() -> None:
    """Room for one full context, and requests that need three of them."""
    texts = [[number % 2, *[(number + place) % 4 for place in range(30)]] for number in range(6)]
    few, many = (made(TableModel(Q, 5, max_context=48), num_blocks=blocks) for blocks in (1, 256))
    for length in (20, 25, 31):
        requests = [
            draft_request(text[:length], request_id=number, rule="token", params=WARM, vocab_size=4)
            for number, text in enumerate(texts)
        ]
        drafts = few.propose(requests), many.propose(requests)
        assert [tree.tokens for tree in drafts[0]] == [tree.tokens for tree in drafts[1]]
    assert few.memory() < many.memory()


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_is_left_of_requests_that_have_ended(count: int) -> None:
    drafter = made(TableModel(Q, 5), num_blocks=1)
    drafter.propose([draft_request([0, 1], request_id=0, vocab_size=4)])
    for number in range(1, count + 1):
        drafter.propose([draft_request([0, 1], request_id=number, vocab_size=4)])
        drafter.end(number, [0, 1])
    model = drafter._bound()
    assert model._cache is not None
    assert list(model._retelling._told) == list(model._cache._run) == [0]
    drafter.forget(0)
    drafter.forget(99)
    assert model._cache._cache.num_free_blocks == model._cache._cache.num_blocks


@pytest.mark.parametrize("missing", ["target", "draft"])
def test_both_tokenizers_are_needed(missing: str) -> None:
    drafter = TliDrafter(TableModel(Q, 5), draft_tokenizer=None if missing == "draft" else DRAFT)
    with pytest.raises(
        ConfigError, match=r"The tli drafter needs the tokenizers of both models\. Give .*draft_tokenizer"
    ):
        drafter.bind(TargetHandle(TableModel(P, 4), None if missing == "target" else TARGET))


def test_a_draft_without_a_common_token_is_refused() -> None:
    drafter = TliDrafter(TableModel(Q, 5, "other"), draft_tokenizer=of_merges("xya", []))
    target = TargetHandle(TableModel(P, 2), of_merges("bca", []))
    with pytest.raises(ConfigError, match=r"Draft other and target table have no token in common\. Use drafter='slem'"):
        drafter.bind(target)
