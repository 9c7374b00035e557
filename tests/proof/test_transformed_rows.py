"""Every row of a draft is transformed for its own prefix, with every transform on.

The target is a table of fractions, and what each setting makes of a row is worked out in fractions: its penalties and
biases are logarithms of rational numbers. Drafts repeat tokens, so that a row and the one above it differ. A rule that
is given the right rows is lossless (test_certify.py); that it is given them is shown here, and that whole texts follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec import DraftRequest, DraftTree, SamplingParams
from specdec.engine.drafting import Proposal
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.engine.verdicts import Decoded, decide
from specdec.models.base import PassOutput
from specdec.proof import cases
from specdec.proof.evidence import Evidence
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import Constraint, LogitsTransform
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.rational import Row, normalized
from specdec.verify.traversal import TraversalRule
from specdec.verify.tree import ROOT, TreeShape

Text = tuple[int, ...]
V, LENGTH, PROMPT = 6, 3, (1, 3)
P, Q = cases.table(144, V), cases.table(62, V)
FIXED = {
    "chain": DraftTree.chain([2, 3, 2]),
    "tree": DraftTree((2, 3, 0, 3, 0, 2), (ROOT, ROOT, 0, 0, 1, 3)),
}
SHAPES = {"chain": TreeShape.chain(2), "tree": TreeShape((ROOT, ROOT, 0))}
COMMITTED: tuple[Text, ...] = ((), (4,), (2, 4), (2, 4, 2))


class NoLeap(Constraint):
    """Token t + 2 may not follow token t."""

    def __init__(self, last: int = PROMPT[-1]) -> None:
        self.last = last

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        allowed = torch.ones(len(tokens) + 1, V, dtype=torch.bool)
        for row, token in enumerate((self.last, *tokens)):
            allowed[row, (token + 2) % V] = False
        return allowed

    def advance(self, token: int) -> None:
        self.last = token

    def forced(self, path: Sequence[int] = ()) -> list[int]:
        return []

    def fork(self) -> NoLeap:
        return NoLeap(self.last)


SETTINGS: dict[str, dict[str, Any]] = {
    "penalties": {"repetition_penalty": 2.0, "presence_penalty": log(2), "frequency_penalty": log(1.5)},
    "bias": {"logit_bias": {2: log(1.5), 0: -log(2)}},
    "bad words": {"bad_words": [[2, 2], [3, 1]]},
    "constraint": {"constraint": NoLeap()},
    "filters": {"temperature": 0.5, "top_k": 4, "top_p": 0.97, "min_p": 0.1},
}
EVERYTHING = "everything"
NAMES = (*SETTINGS, EVERYTHING)


def params_of(name: str) -> SamplingParams:
    chosen: dict[str, Any] = {"temperature": 1.0, "max_tokens": LENGTH}
    for one in SETTINGS if name == EVERYTHING else [name]:
        chosen |= SETTINGS[one]
    return SamplingParams(**chosen)


def row_after(text: Text, name: str) -> Row:
    """What a setting makes of the target's row after a text, by hand."""
    on = set(SETTINGS) if name == EVERYTHING else {name}
    row = list(P(text))
    before = (*PROMPT, *text)
    for token in range(V):
        if "penalties" in on:
            row[token] **= 2 if token in before else 1  # logarithms of masses are negative: the penalty doubles them
            row[token] *= Fraction(1, 2) if token in text else 1
            row[token] *= Fraction(2, 3) ** text.count(token)
        if "bias" in on:
            row[token] *= {2: Fraction(3, 2), 0: Fraction(1, 2)}.get(token, Fraction(1))
        banned = "bad words" in on and (before[-1], token) in [(2, 2), (3, 1)]
        if banned or ("constraint" in on and token == (before[-1] + 2) % V):
            row[token] = Fraction(0)
    return filtered(normalized(row)) if "filters" in on else normalized(row)


def filtered(row: Row) -> Row:
    row = cases.top_p(Fraction(97, 100))(cases.top_k(4)(cases.power(2)(row)))
    return normalized(mass if mass >= max(row) / 10 else Fraction(0) for mass in row)


def law_of(name: str) -> dict[Text, Fraction]:
    law: dict[Text, Fraction] = {(): Fraction(1)}
    for _ in range(LENGTH):
        law = {(*text, t): mass * m for text, mass in law.items() for t, m in enumerate(row_after(text, name)) if m}
    return law


def logits_after(table: Any, text: Text) -> Tensor:
    return torch.tensor([float(mass) for mass in table(text)], dtype=torch.float64).log().float()


def drawn(request: DraftRequest, text: Text, shape: TreeShape) -> DraftTree:
    """A draft from Q under the request's own transform."""
    tokens, parents, q, place = list[int](), list[int](), list[Tensor](), {ROOT: ROOT}
    for at in shape.inner:
        if at not in place:
            continue
        prefix = DraftTree(tuple(tokens), tuple(parents)).prefix(place[at])
        lanes = range(len(tokens), len(tokens) + len(shape.children(at)))
        found, mass = request.draw(logits_after(Q, (*text, *prefix)), prefix, lanes)
        place |= dict(zip(shape.children(at), lanes[: len(found)], strict=False))
        parents += [place[at]] * len(found)
        tokens += found
        if mass is not None and found:
            q.append(mass)
    return DraftTree(tuple(tokens), tuple(parents), torch.stack(q) if q else None)


def made(rule: Rule, name: str, random: RandomSource, text: Text = (), length: int = LENGTH) -> Request:
    """A request that has said `text`."""
    params = replace(params_of(name), max_tokens=length)
    transform = LogitsTransform(params, PROMPT, V)
    request = Request(0, list(PROMPT), params, rule, transform, random, None, frozenset(), len(PROMPT) + length)
    request.commit(text, 0)
    return request


def judged(request: Request, tree: DraftTree) -> Verdict:
    """What the engine's own code says of a draft."""
    text = tuple(request.output)
    rows = torch.stack([logits_after(P, (*text, *tree.prefix(node))) for node in range(ROOT, len(tree))])
    part, output = Scheduled(request, request.tokens[-1:], tree.depth, True), PassOutput(logits=rows)
    [(_, verdict)] = decide([Decoded(part, Proposal(tree, "table"), output, output)], on_device=False)
    assert isinstance(verdict, Verdict)
    return verdict


class Spy(TraversalRule):
    """Keeps the rows that a rule is given."""

    rows: Tensor

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        self.rows = torch.softmax(scores, dim=-1)
        return super().accept_one(tree, scores, key)


def largest_error(shape: str, name: str, text: Text) -> tuple[float, int]:
    """Of the probabilities that the engine gives its rule, beside the rows by hand; and how many rows texts reach."""
    spy = Spy()
    request = made(spy, name, RandomSource(0), text, 9)
    tree = FIXED[shape].pruned(request.transform.forbidden(FIXED[shape].tokens, FIXED[shape].parents))
    judged(request, tree)
    worst, reached = 0.0, 0
    for node in range(ROOT, len(tree)):
        path = tree.prefix(node)
        if all(row_after((*text, *path[:n]), name)[path[n]] for n in range(len(path))):
            row = torch.tensor([float(mass) for mass in row_after((*text, *path), name)])
            worst, reached = max(worst, float((spy.rows[node + 1] - row).abs().max())), reached + 1
    return worst, reached


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", FIXED)
def test_the_rule_is_given_the_rows_by_hand(shape: str, name: str) -> None:
    """Every row of a draft, for its own prefix; below a token that has no mass there is nothing to say."""
    found = [largest_error(shape, name, text) for text in COMMITTED]
    assert max(error for error, _ in found) < 1e-6
    assert max(rows for _, rows in found) > {"chain": 2, "tree": 4}[shape]


@pytest.mark.parametrize("name", ["penalties", "bad words", "constraint", EVERYTHING])
@pytest.mark.parametrize("shape", FIXED)
def test_rows_transformed_for_the_prefix_of_their_parent_are_noticed(
    shape: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LogitsTransform.scores

    def wrong(self: LogitsTransform, logits: Tensor, paths: Sequence[Sequence[int]], *more: Any) -> Tensor:
        return right(self, logits, [path[:-1] for path in paths])

    monkeypatch.setattr(LogitsTransform, "scores", wrong)
    assert max(largest_error(shape, name, text)[0] for text in COMMITTED) > 1e-2


class NothingFarBelow(NoLeap):
    """Says of texts that cannot be what it likes: there is a row that allows nothing, two tokens below a leap."""

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        allowed = super().masks(tokens, parents)
        if len(tokens) > 1:
            allowed[2] = True
            allowed[-1] = False
        return allowed

    def fork(self) -> NothingFarBelow:
        return NothingFarBelow(self.last)


def test_no_row_below_a_token_that_may_not_be_is_read_however_far() -> None:
    transform = LogitsTransform(SamplingParams(temperature=1.0, constraint=NothingFarBelow()), PROMPT, V)
    path = (PROMPT[-1], (PROMPT[-1] + 2) % V, 0)  # the second one leaps
    paths = [path[:n] for n in range(4)]
    logits = torch.stack([logits_after(P, one) for one in paths])
    assert transform.forbidden(path, (ROOT, 0, 1)) == [1, 2]
    scores = transform.scores(logits, paths, [-1, 0, 1, 2])
    assert scores[2:].tolist() == [[0.0] * V] * 2


def test_each_request_of_a_pass_is_judged_by_its_own_rule_on_its_own_rows() -> None:
    rules = [Spy(), Spy(), Spy()]
    texts: list[Text] = [(), (4,), (2, 4)]
    items = []
    for rule, text, shape in zip(rules, texts, ("chain", "tree", "chain"), strict=True):
        request, tree = made(rule, "penalties", RandomSource(1), text, 9), FIXED[shape]
        rows = torch.stack([logits_after(P, (*text, *tree.prefix(node))) for node in range(ROOT, len(tree))])
        part, output = Scheduled(request, request.tokens[-1:], tree.depth, True), PassOutput(logits=rows)
        items.append(Decoded(part, Proposal(tree, "table"), output, output))
    decided = decide([items[0], items[2], items[1], replace(items[0])], on_device=False)
    assert {id(item.request) for item, _ in decided} == {id(item.request) for item in items}
    assert len(decided) == 4
    for rule, text, item in zip(rules, texts, items, strict=True):
        first = [float(mass) for mass in row_after(text, "penalties")]
        assert len(rule.rows) == len(item.tree) + 1
        assert rule.rows[0].tolist() == pytest.approx(first, abs=1e-6)
    for item, verdict in decided:
        assert verdict == judged(item.request, item.tree)


def text_of(rule: Rule, shape: str, name: str, random: RandomSource, seen: Counter[int]) -> Text:
    """One request from its prompt to its end, with drafts from Q; `seen` counts how many tokens were accepted."""
    request = made(rule, name, random)
    while not request.finished:
        depth, text = request.max_depth(2), tuple(request.output)
        tree = DraftTree()
        if depth:
            part = Scheduled(request, request.tokens[-1:], depth, True)
            tree = drawn(part.draft_request(depth), text, SHAPES[shape].truncated(depth))
        verdict = judged(request, tree)
        seen[len(verdict.path)] += 1
        request.commit(verdict.tokens(tree), len(verdict.path))
    return tuple(request.output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["penalties", EVERYTHING])
@pytest.mark.parametrize(("rule", "shape"), [("block", "chain"), ("traversal", "tree"), ("gumbel", "tree")])
def test_whole_texts_follow_the_transformed_law(rule: str, shape: str, name: str) -> None:
    """With drafts drawn under the same transform; sampled, and wrongly rejected once in a million runs."""
    seen: Counter[int] = Counter()
    evidence = Evidence({text: float(mass) for text, mass in law_of(name).items()})
    for seed in range(1500):
        evidence.add(text_of(RULES.create(rule), shape, name, RandomSource(seed), seen))
    assert not evidence.rejects(1e-6)
    assert all(seen[accepted] > 50 for accepted in (0, 1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_draft_is_that_of_the_committed_text(name: str) -> None:
    """Every row of a tree, against the same tokens committed one by one, to the last bit, and against the fractions."""
    tree = FIXED["tree"]
    paths = [tree.prefix(node) for node in range(ROOT, len(tree))]
    logits = torch.stack([logits_after(P, path) for path in paths])
    transform = LogitsTransform(params_of(name), PROMPT, V)
    drafted = transform.scores(logits, paths, [-1, *(parent + 1 for parent in tree.parents)])
    compared = 0
    for path, row, own in zip(paths, logits, drafted, strict=True):
        if not all(row_after(path[:n], name)[path[n]] for n in range(len(path))):
            continue  # no text gets there
        alone = LogitsTransform(params_of(name), PROMPT, V)
        for token in path:
            alone.append([token])
        [committed] = alone.scores(row[None], [()])
        assert torch.equal(own, committed)
        assert torch.softmax(own, -1).tolist() == pytest.approx([float(m) for m in row_after(path, name)], abs=1e-6)
        compared += 1
    assert compared >= 3


def test_the_settings_change_what_they_are_about() -> None:
    plain = {text: P(text) for text in [(), (2,), (2, 2), (1, 2)]}
    for name in NAMES:
        assert any(row_after(text, name) != row for text, row in plain.items())
