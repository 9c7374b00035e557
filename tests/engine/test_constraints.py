"""A constraint changes the target's law and no more: exact under every lossless rule, for every kind of draft.

The constrained target is worked out by hand in fractions: p restricted to what may follow, and normalised. Every rule's
own law must give it exactly. Then the engine's parts are run for every combination of their random numbers: candidates
are drawn, rows transformed and drafts judged as in a step; what comes out must be that law, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from specdec import ConfigError, Drafter, DraftRequest, DraftTree, SamplingParams
from specdec.proof.evidence import Evidence
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import Choices, LogitsTransform
from specdec.verify.base import Rule
from specdec.verify.tree import ROOT
from tests.engines import DRAFTERS, outputs, run, small_engine
from tests.fewer import every
from tests.texts import CASES, KINDS, Limited, Text, check_law, check_parts, row, target

pytestmark = pytest.mark.fewer(3)

A, B, END = range(3)
TEXTS = [[A], [A, B], [B, A]]
WARM = SamplingParams(temperature=1.0, constraint=Choices(TEXTS, [END], 3))
FIXED = {"chain": DraftTree.chain([B, B]), "tree": DraftTree((A, END, B, B, A), (ROOT, ROOT, ROOT, 0, 1))}


def may_follow(text: Text) -> set[int]:
    """By looking at the list."""
    if END in text:
        return {A, B, END}
    longer = {t[len(text)] for t in TEXTS if len(t) > len(text) and tuple(t[: len(text)]) == text}
    return (longer | ({END} if list(text) in TEXTS else set())) or {A}


SCENE = Limited(3, WARM, frozenset([END]), may_follow, FIXED)


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_every_rules_law_gives_the_constrained_law_exactly(name: str, kind: str, shape: str) -> None:
    check_law(SCENE, name, kind, shape)


@pytest.mark.parametrize(("name", "kind", "shape"), every(4, (case for case in CASES if case[0] != "gumbel")))
def test_a_constrained_text_of_the_engines_parts_follows_it(name: str, kind: str, shape: str) -> None:
    check_parts(SCENE, name, kind, shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_so_does_one_under_gumbel(kind: str, shape: str) -> None:
    """Its noise is a vector, so texts are sampled; wrongly rejected once in a million runs."""
    evidence = Evidence({text: float(mass) for text, mass in SCENE.law(3).items()})
    rule: Rule = RULES.create("gumbel")
    for seed in range(1000):
        evidence.add(SCENE.text(rule, kind, shape, RandomSource(seed), 3))
    assert not evidence.rejects(1e-6)
    for seed in range(100):
        plain = SCENE.text(rule, "deterministic", "chain", RandomSource(seed), 3)
        assert SCENE.text(rule, kind, shape, RandomSource(seed), 3) == plain


def test_greedy_takes_the_likeliest_token_that_may_follow() -> None:
    text: Text = ()
    while not SCENE.ended(text, 3):
        text = (*text, max(may_follow(text), key=lambda token: SCENE.p(text)[token]))
    transform, written = LogitsTransform(replace(WARM, temperature=0.0), [], 3), ()
    while not SCENE.ended(written, 3):
        [scores] = transform.scores(row(target(3), written)[None], [()])
        written = (*written, int(scores.argmax()))
        transform.append(written[-1:])
    assert written == text


def test_the_masks_of_a_tree_by_hand() -> None:
    a, b, c, end = range(4)
    choices = Choices([[a], [a, b], [b, a], [b, c], [c, c]], [end], 4)
    tree = DraftTree((a, b, end, c, c), (ROOT, 0, 0, ROOT, 3))
    masks = choices.masks(tree.tokens, tree.parents)
    allowed = [set(one.nonzero().flatten().tolist()) for one in masks]
    assert allowed == [{a, b, c}, {b, end}, {end}, {a, b, c, end}, {c}, {end}]
    assert choices.forced() == []
    assert choices.forced([c]) == [c]
    fork = choices.fork()
    fork.advance(b)
    assert set(fork.masks((), ())[0].nonzero().flatten().tolist()) == {a, c}
    assert set(choices.masks((), ())[0].nonzero().flatten().tolist()) == {a, b, c}
    for texts, ends in (([], [end]), ([[]], [end]), ([[a]], []), ([[9]], [end])):
        with pytest.raises(ConfigError):
            Choices(texts, ends, 4)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_drafter_gives_the_text_of_plain_decoding_under_a_constraint(drafter: str, temperature: float) -> None:
    """Rows below a forbidden token have no allowed token at all, and fail nobody."""
    words = [[7, 9, 7, 9, 7, 9, 11], [7, 9, 7, 9, 12], [8] * 6, [7, 9, 13, 9, 13, 9, 13]]
    params = [
        SamplingParams(max_tokens=12, temperature=temperature, seed=seed, constraint=Choices(words, [0], 64))
        for seed in range(6)
    ]
    prompts = [[1, 2, 3], [7, 9, 7, 9, 7], [8, 8, 8], [9, 13, 9, 13], [5], [7]]

    def texts(made: Drafter) -> list[list[int]]:
        engine = small_engine(made, "gumbel")
        engine._intake._eos = frozenset([0])
        requests = run(engine, prompts, params)
        assert all(request.finish_reason == "stop" for request in requests)
        return outputs(requests)

    plain = texts(DRAFTERS["none"]())
    assert all(text[:-1] in words for text in plain)
    assert texts(DRAFTERS[drafter]()) == plain


def test_forbidden_drafts_of_a_deterministic_drafter_are_not_verified() -> None:
    params = SamplingParams(max_tokens=8, constraint=Choices([[7, 9, 7, 9, 7, 9]], [0], 64))
    drafted, accepted = [], []
    for drafter in ("nonsense", "ngram"):
        engine = small_engine(DRAFTERS[drafter]())
        engine._intake._eos = frozenset([0])
        [request] = run(engine, [[7, 9, 7, 9]], params)
        drafted.append(request.stats.drafted_tokens)
        accepted.append(request.stats.accepted_tokens)
    assert drafted[0] == 0  # not one of them was allowed
    assert accepted[1] > 3


class LooksDrafter(Drafter):
    """Notes whether the scores that it is given keep to the constraint, and drafts one token that may follow, then one
    that may not."""

    name = "looks"

    def __init__(self) -> None:
        super().__init__(2)
        self.confined: set[bool] = set()

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = []
        for request in requests:
            view, constraint = request.transform, request.transform.constraint
            assert constraint is not None
            [allowed], [scores] = constraint.masks((), ()), view.scores(torch.zeros(1, view.vocab_size), [()])
            kept = bool((scores[~allowed] == -math.inf).all())
            assert view.edits == kept
            self.confined.add(kept)
            trees.append(DraftTree.chain([int(allowed.nonzero()[0]), 63]))
        return trees


@pytest.mark.parametrize(("rule", "confined"), [("greedy", False), ("gumbel", False), ("token", True)])
def test_a_drafter_is_told_of_a_constraint_only_if_the_text_depends_on_its_draft(rule: str, confined: bool) -> None:
    """Else what may not stand where it does is taken out of its draft."""
    drafter, temperature = LooksDrafter(), 0.0 if rule == "greedy" else 1.0
    engine = small_engine(drafter, rule)
    engine._intake._eos = frozenset([0])
    params = SamplingParams(max_tokens=8, temperature=temperature, seed=1, constraint=Choices([[7, 9] * 4], [0], 64))
    [request] = run(engine, [[7, 9, 7, 9]], params)
    assert outputs([request]) == [[7, 9] * 4]
    assert drafter.confined == {confined}
    assert request.stats.drafted_tokens == request.stats.accepted_tokens > 2
