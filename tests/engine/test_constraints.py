"""A constraint changes the target's law and no more: exact under every lossless rule, for every kind of draft.

The constrained target is worked out by hand in fractions: p restricted to what may follow, and normalised. Every rule's
own law must give it exactly. Then the engine's parts are run for every combination of their random numbers: candidates
are drawn, rows transformed and drafts judged as in a step; what comes out must be that law, too.
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
from specdec.proof.exact import Setting, joint_law
from specdec.proof.explore import explore
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import Choices, LogitsTransform
from specdec.verify.base import Rule
from specdec.verify.tree import ROOT, TreeShape
from tests.engines import DRAFTERS, outputs, run, small_engine

A, B, END = range(3)
TEXTS = [[A], [A, B], [B, A]]
P, Q = cases.table(51, 3), cases.table(52, 3)
LENGTH = 3
WARM = SamplingParams(temperature=1.0, constraint=Choices(TEXTS, [END], 3))
CHAIN, TREE = TreeShape.chain(2), TreeShape((ROOT, ROOT, 0, 1))
TOLERANCE = 2e-5
"""As specdec.proof.certify: borders are found to 4e-7 each, and a text depends on a few dozen of them."""
Text = tuple[int, ...]


def may_follow(text: Text) -> set[int]:
    """By looking at the list."""
    if END in text:
        return {A, B, END}
    longer = {t[len(text)] for t in TEXTS if len(t) > len(text) and tuple(t[: len(text)]) == text}
    return longer | ({END} if list(text) in TEXTS else set())


def constrained(law: Callable[[Text], Sequence[Fraction]], text: Text) -> tuple[Fraction, ...]:
    """What may follow, normalised; anything below a text that cannot be."""
    allowed = may_follow(text) or {A}
    total = sum(law(text)[token] for token in allowed)
    return tuple(mass / total if token in allowed else Fraction(0) for token, mass in enumerate(law(text)))


def ended(text: Text, length: int) -> bool:
    return len(text) >= length or END in text


def exact_law(length: int = LENGTH) -> dict[Text, Fraction]:
    law: dict[Text, Fraction] = {}

    def extend(text: Text, mass: Fraction) -> None:
        if ended(text, length):
            law[text] = mass
            return
        for token in may_follow(text):
            extend((*text, token), mass * constrained(P, text)[token])

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
        draw = request.draw if aware else lambda r, p, n: request.rule.draw(r, request.key, len(p), n)
        drawn, mass = draw(logits, prefix, lanes)
        place |= dict(zip(children, lanes[: len(drawn)], strict=False))
        parents += [place[at]] * len(drawn)
        tokens += drawn
        if mass is not None and drawn:
            q.append(mass)
    return DraftTree(tuple(tokens), tuple(parents), torch.stack(q) if q else None)


FIXED = {"chain": DraftTree.chain([B, B]), "tree": DraftTree((A, END, B, B, A), (ROOT, ROOT, ROOT, 0, 1))}


def text_of(rule: Rule, kind: str, shape: str, random: RandomSource, length: int) -> Text:
    """One text, step by step as the engine takes them."""
    transform, text = LogitsTransform(WARM, [], 3), ()
    while not ended(text, length):
        key, depth = StepKey(random, anchor=3 + len(text)), length - len(text) - 1
        request = DraftRequest(0, text, depth, transform, rule, key)
        if kind == "deterministic":
            tree = FIXED[shape].truncated(depth)
            tree = tree.pruned(transform.forbidden(tree.tokens, tree.parents))
        else:
            tree = draft(request, text, (CHAIN if shape == "chain" else TREE).truncated(depth), kind == "aware")
        paths = [tree.prefix(node) for node in range(ROOT, len(tree))]
        logits = torch.stack([row(P, (*text, *path)) for path in paths])
        scores = transform.scores(logits, paths, [-1, *(parent + 1 for parent in tree.parents)])
        [verdict] = rule.accept([tree], [scores], [key])
        for token in verdict.tokens(tree):
            text = (*text, token)
            transform.append([token])
            if ended(text, length):
                break
    return text


KINDS = ("aware", "unaware", "deterministic")
CASES = [
    (name, kind, shape)
    for name in RULES.names()
    for kind in KINDS
    for shape in ("chain", "tree")
    if RULES.get(name).lossless
    and name != "greedy"
    and (
        shape == "chain" or (RULES.get(name).trees and (kind != "deterministic" or RULES.get(name).deterministic_trees))
    )
]


@pytest.mark.parametrize(("name", "kind", "shape"), CASES)
def test_every_rules_law_gives_the_constrained_law_exactly(name: str, kind: str, shape: str) -> None:
    def p(text: Text) -> tuple[Fraction, ...]:
        return constrained(P, text)

    fixed = FIXED[shape].pruned([1] if shape == "tree" else [])
    if kind == "deterministic":
        setting = Setting("fixed", p, propose=lambda text: fixed, max_tokens=LENGTH, eos=END)
    else:
        q = (lambda text: constrained(Q, text)) if kind == "aware" else Q
        setting = Setting("drawn", p, q, CHAIN if shape == "chain" else TREE, max_tokens=LENGTH, eos=END)
    assert joint_law(RULES.create(name), setting) == exact_law()


@pytest.mark.parametrize(("name", "kind", "shape"), [case for case in CASES if case[0] != "gumbel"])
def test_a_constrained_text_of_the_engines_parts_follows_it(name: str, kind: str, shape: str) -> None:
    length = LENGTH if shape == "chain" or kind == "deterministic" else 2  # the explorer's work is exponential
    rule: Rule = RULES.create(name)
    found = explore(lambda random: text_of(rule, kind, shape, random, length))
    law = exact_law(length)
    assert sum(law.values()) == 1
    assert found.keys() <= law.keys()
    assert max(abs(found.get(text, 0.0) - float(mass)) for text, mass in law.items()) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_so_does_one_under_gumbel(kind: str, shape: str) -> None:
    """Its noise is a vector, so texts are sampled; wrongly rejected once in a million runs."""
    evidence = Evidence({text: float(mass) for text, mass in exact_law().items()})
    rule: Rule = RULES.create("gumbel")
    for seed in range(1000):
        evidence.add(text_of(rule, kind, shape, RandomSource(seed), LENGTH))
    assert not evidence.rejects(1e-6)
    for seed in range(100):
        plain = text_of(rule, "deterministic", "chain", RandomSource(seed), LENGTH)
        assert text_of(rule, kind, shape, RandomSource(seed), LENGTH) == plain


def test_greedy_takes_the_likeliest_token_that_may_follow() -> None:
    text: Text = ()
    while not ended(text, LENGTH):
        text = (*text, max(may_follow(text), key=lambda token: P(text)[token]))
    transform, written = LogitsTransform(replace(WARM, temperature=0.0), [], 3), ()
    while not ended(written, LENGTH):
        [scores] = transform.scores(row(P, written)[None], [()])
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
