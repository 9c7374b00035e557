"""A constraint changes the target's law and no more: exact under every lossless rule, for every kind of draft.

The engine's own parts are run for every combination of their random numbers: candidates are drawn, rows transformed and
drafts judged as in a step, on tables of small fractions. The law that comes out is compared with the constrained
target's, worked out by hand in fractions: p restricted to what may follow, and normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from specdec import ConfigError, Drafter, DraftRequest, DraftTree, SamplingParams, StepKey
from specdec.proof import cases
from specdec.proof.evidence import Evidence
from specdec.proof.explore import explore
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import Choices, LogitsTransform
from specdec.verify.base import Rule
from specdec.verify.tree import ROOT, TreeShape
from tests.engines import DRAFTERS, outputs, run, small_engine

A, B, C, END = range(4)
TEXTS = [[A], [A, B], [B, A], [B, C], [C, C]]
P, Q = cases.table(51, 4), cases.table(52, 4)
LENGTH = 3
WARM = SamplingParams(temperature=1.0, constraint=Choices(TEXTS, [END], 4))
CHAIN, TREE = TreeShape((ROOT, 0)), TreeShape((ROOT, ROOT, 0, 1))
TOLERANCE = 2e-5
"""As specdec.proof.certify: borders are found to 4e-7 each, and a text depends on a few dozen of them."""
Text = tuple[int, ...]


def may_follow(text: Text) -> set[int]:
    """By looking at the list."""
    if END in text:
        return {A, B, C, END}
    longer = {t[len(text)] for t in TEXTS if len(t) > len(text) and tuple(t[: len(text)]) == text}
    return longer | ({END} if list(text) in TEXTS else set())


def ended(text: Text) -> bool:
    return len(text) >= LENGTH or END in text


def exact_law() -> dict[Text, Fraction]:
    law: dict[Text, Fraction] = {}

    def extend(text: Text, mass: Fraction) -> None:
        if ended(text):
            law[text] = mass
            return
        allowed = may_follow(text)
        total = sum(P(text)[token] for token in allowed)
        for token in allowed:
            extend((*text, token), mass * P(text)[token] / total)

    extend((), Fraction(1))
    return law


def row(law: Callable[[Text], Sequence[Fraction]], text: Text) -> Tensor:
    return torch.tensor([float(mass) for mass in law(text)], dtype=torch.float64).log().float()


def draft(request: DraftRequest, text: Text, shape: TreeShape, aware: bool) -> DraftTree:
    """Drawn from Q level by level; unaware of the constraint it draws what may not follow, too."""
    tokens, parents, q, place = list[int](), list[int](), list[Tensor](), {ROOT: ROOT}
    for at in range(ROOT, len(shape)):
        children = shape.children(at)
        if at not in place or not children:
            continue
        prefix = DraftTree(tuple(tokens), tuple(parents)).prefix(place[at])
        lanes = range(len(tokens), len(tokens) + len(children))
        logits = row(Q, (*text, *prefix))
        drawn, mass = (
            request.draw(logits, prefix, lanes) if aware else request.rule.draw(logits, request.key, len(prefix), lanes)
        )
        place |= dict(zip(children, lanes[: len(drawn)], strict=False))
        parents += [place[at]] * len(drawn)
        tokens += drawn
        if mass is not None and drawn:
            q.append(mass)
    return DraftTree(tuple(tokens), tuple(parents), torch.stack(q) if q else None)


FIXED = {"chain": DraftTree.chain([B, C]), "tree": DraftTree((A, B, B, A, C), (ROOT, ROOT, 0, 0, 1))}


def text_of(rule: Rule, kind: str, shape: str, random: RandomSource) -> Text:
    """One text, step by step as the engine takes them."""
    transform, text = LogitsTransform(WARM, [], 4), ()
    while not ended(text):
        key, depth = StepKey(random, anchor=3 + len(text)), LENGTH - len(text) - 1
        request = DraftRequest(0, text, depth, transform, rule, key)
        wanted = (CHAIN if shape == "chain" else TREE).truncated(depth)
        if kind == "deterministic":
            tree = FIXED[shape].truncated(depth)
            tree = tree.pruned(transform.forbidden(tree.tokens, tree.parents))
        else:
            tree = draft(request, text, wanted, kind == "aware")
        paths = [tree.prefix(node) for node in range(ROOT, len(tree))]
        logits = torch.stack([row(P, (*text, *path)) for path in paths])
        scores = transform.scores(logits, paths, [-1, *(parent + 1 for parent in tree.parents)])
        [verdict] = rule.accept([tree], [scores], [key])
        for token in verdict.tokens(tree):
            text = (*text, token)
            transform.append([token])
            if ended(text):
                break
    return text


CASES = [
    (name, kind, shape)
    for name in RULES.names()
    for kind in ("aware", "unaware", "deterministic")
    for shape in ("chain", "tree")
    if RULES.get(name).lossless
    and name not in ("greedy", "gumbel")
    and (
        shape == "chain" or (RULES.get(name).trees and (kind != "deterministic" or RULES.get(name).deterministic_trees))
    )
]


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_a_constrained_text_follows_the_constrained_law(name: str, kind: str, shape: str) -> None:
    rule: Rule = RULES.create(name)
    found = explore(lambda random: text_of(rule, kind, shape, random))
    law = exact_law()
    assert sum(law.values()) == 1
    assert found.keys() <= law.keys()
    assert max(abs(found.get(text, 0.0) - float(mass)) for text, mass in law.items()) < TOLERANCE


@pytest.mark.parametrize("kind", ["aware", "unaware", "deterministic"])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_so_does_one_under_gumbel(kind: str, shape: str) -> None:
    """Its noise is a vector, so texts are sampled; wrongly rejected once in a million runs."""
    evidence = Evidence({text: float(mass) for text, mass in exact_law().items()})
    rule: Rule = RULES.create("gumbel")
    plain = [text_of(rule, "deterministic", "chain", RandomSource(seed)) for seed in range(3000)]
    for seed, text in enumerate(plain):
        evidence.add(text)
        if seed < 300:
            assert text_of(rule, kind, shape, RandomSource(seed)) == text
    assert not evidence.rejects(1e-6)


def test_greedy_takes_the_likeliest_text_that_may_follow() -> None:
    text: Text = ()
    while not ended(text):
        text = (*text, max(may_follow(text), key=lambda token: P(text)[token]))
    params = replace(WARM, temperature=0.0)
    transform, written = LogitsTransform(params, [], 4), ()
    while not ended(written):
        [scores] = transform.scores(row(P, written)[None], [()])
        written = (*written, int(scores.argmax()))
        transform.append(written[-1:])
    assert written == text


def test_the_masks_of_a_tree_by_hand() -> None:
    choices = Choices(TEXTS, [END], 4)
    tree = DraftTree((A, B, END, C, C), (ROOT, 0, 0, ROOT, 3))
    masks = choices.masks(tree.tokens, tree.parents)
    allowed = [set(one.nonzero().flatten().tolist()) for one in masks]
    assert allowed == [{A, B, C}, {B, END}, {END}, {A, B, C, END}, {C}, {END}]
    assert choices.forced() == []
    assert choices.forced([C]) == [C]
    fork = choices.fork()
    fork.advance(B)
    assert set(fork.masks((), ())[0].nonzero().flatten().tolist()) == {A, C}
    assert set(choices.masks((), ())[0].nonzero().flatten().tolist()) == {A, B, C}
    for texts, end in (([], [END]), ([[]], [END]), ([[A]], []), ([[9]], [END])):
        with pytest.raises(ConfigError):
            Choices(texts, end, 4)


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
    words = [[7, 9, 7, 9, 7, 9], [20, 21]]
    params = SamplingParams(max_tokens=8, constraint=Choices(words, [0], 64))
    engine = small_engine(DRAFTERS["nonsense"]())
    [request] = run(engine, [[1, 2]], params)
    assert request.stats.drafted_tokens == 0  # not one of them was allowed
    [request] = run(
        small_engine(DRAFTERS["ngram"]()), [[7, 9, 7, 9]], replace(params, constraint=Choices(words[:1], [0], 64))
    )
    assert request.stats.accepted_tokens > 3
