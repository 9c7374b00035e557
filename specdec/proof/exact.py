"""The exact law of speculative decoding on small vocabularies: every draft, every verdict, step after step.

Nothing is sampled and nothing is rounded: probabilities are fractions, and a lossless rule's law equals the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

from specdec.verify.base import Rule
from specdec.verify.rational import ONE, ZERO, ExactDraft, Row
from specdec.verify.tree import ROOT, DraftTree, TreeShape

Tokens = tuple[int, ...]
Conditional = Callable[[Tokens], Row]
"""Tokens emitted so far → distribution of the next one."""
Stop = Callable[[Tokens, Sequence[Row]], bool]
"""Drafted tokens on the way to a node, and the q that each was drawn from → whether nothing is drawn below it."""


@dataclass(frozen=True)
class Setting:
    """A target, a drafter, and where the text ends: everything that a joint law depends on, but the rule.

    Args:
        name: what to call it in reports.
        p: the target.
        q: a drafter that draws, or None.
        shape: of a full tree, for a drafter that draws.
        stop: where that drafter ends a branch before the shape does; it never does at the root.
        propose: a deterministic drafter, instead of q and shape.
        max_tokens: the text is cut after this many tokens.
        eos: token that ends the text earlier.
    """

    name: str
    p: Conditional
    q: Conditional | None = None
    shape: TreeShape = field(default_factory=TreeShape)
    stop: Stop | None = None
    propose: Callable[[Tokens], DraftTree] | None = None
    max_tokens: int = 2
    eos: int | None = None

    def ended(self, tokens: Tokens) -> bool:
        """Whether the text is complete."""
        return len(tokens) >= self.max_tokens or (self.eos is not None and self.eos in tokens)

    def cut(self, tokens: Tokens) -> Tokens:
        """The text without what follows its end."""
        tokens = tokens[: self.max_tokens]
        return tokens[: tokens.index(self.eos) + 1] if self.eos in tokens else tokens


def drafts(rule: Rule, setting: Setting, prefix: Tokens) -> Iterator[tuple[ExactDraft, Fraction]]:
    """Every draft that may be proposed after `prefix`, and its probability.

    As in the engine, a draft is one token shorter than what may still be emitted.
    """
    depth = setting.max_tokens - len(prefix) - 1
    if setting.propose is not None:
        tree = setting.propose(prefix).truncated(depth)
        yield ExactDraft(tree, _rows(setting.p, prefix, tree)), ONE
        return
    if setting.q is None or depth == 0:
        yield ExactDraft(DraftTree(), _rows(setting.p, prefix, DraftTree())), ONE
        return
    shape = setting.shape.truncated(depth)
    for tree, probability in _grown(rule, setting.q, prefix, shape, setting.stop or _never):
        yield ExactDraft(tree, _rows(setting.p, prefix, tree), _rows(setting.q, prefix, tree)), probability


def _never(tokens: Tokens, rows: Sequence[Row]) -> bool:
    return False


def _grown(
    rule: Rule, q: Conditional, prefix: Tokens, shape: TreeShape, stop: Stop
) -> Iterator[tuple[DraftTree, Fraction]]:
    """All trees of the given shape, node by node; children of a node that could not be drawn are missing too."""

    def stopped(path: Tokens) -> bool:
        return bool(path) and stop(path, [q((*prefix, *path[:length])) for length in range(len(path))])

    def expand(
        at: int, tree: DraftTree, place: dict[int, int], chance: Fraction
    ) -> Iterator[tuple[DraftTree, Fraction]]:
        """`at`: next node of the shape whose children are drawn; `place`: shape's node → tree's node."""
        if at == len(shape):
            yield tree, chance
            return
        children = shape.children(at)
        if at not in place or not children:
            yield from expand(at + 1, tree, place, chance)
            return
        node = place[at]
        path = tree.prefix(node)
        if stopped(path):
            yield from expand(at + 1, tree, place, chance)
            return
        for tokens, probability in rule.draw_law(q((*prefix, *path)), len(children)).items():
            grown = DraftTree((*tree.tokens, *tokens), (*tree.parents, *[node] * len(tokens)))
            placed = {child: len(tree) + i for i, child in enumerate(children[: len(tokens)])}
            yield from expand(at + 1, grown, place | placed, chance * probability)

    yield from expand(ROOT, DraftTree(), {ROOT: ROOT}, ONE)


def _rows(law: Conditional, prefix: Tokens, tree: DraftTree) -> list[Row]:
    return [law((*prefix, *tree.prefix(node))) for node in range(ROOT, len(tree))]


def step_law(rule: Rule, setting: Setting, prefix: Tokens) -> dict[Tokens, Fraction]:
    """The law of what one step after `prefix` emits."""
    law: dict[Tokens, Fraction] = {}
    for draft, drawn in drafts(rule, setting, prefix):
        for (path, token), probability in rule.law(draft).items():
            tokens = (*(draft.tree.tokens[node] for node in path), token)
            law[tokens] = law.get(tokens, ZERO) + drawn * probability
    return law


def joint_law(rule: Rule, setting: Setting) -> dict[Tokens, Fraction]:
    """The law of the whole text, over as many steps as it takes."""
    step = cache(lambda prefix: step_law(rule, setting, prefix))
    law: dict[Tokens, Fraction] = {}
    open_texts: dict[Tokens, Fraction] = {(): ONE}
    while open_texts:
        shortest = min(open_texts, key=len)
        reached = open_texts.pop(shortest)
        for tokens, probability in step(shortest).items():
            text = setting.cut((*shortest, *tokens))
            into = law if setting.ended(text) else open_texts
            into[text] = into.get(text, ZERO) + reached * probability
    return {text: probability for text, probability in law.items() if probability}


Step = tuple[Tokens, tuple[Tokens, ...], Tokens, int]
"""One step: all drafted tokens; the candidates of each node on the accepted path, from the root on; the accepted nodes;
the next token."""


def visited(tree: DraftTree, path: Tokens) -> tuple[Tokens, ...]:
    """What a walk along `path` has met: the candidates of the root and of each accepted node."""
    return tuple(tuple(tree.tokens[child] for child in tree.children(node)) for node in (ROOT, *path))


def trajectories(rule: Rule, setting: Setting, num_steps: int) -> dict[tuple[Step, ...], Fraction]:
    """The law of what happens in the first steps of a text."""
    law: dict[tuple[Step, ...], Fraction] = {}

    def go(text: Tokens, steps: tuple[Step, ...], reached: Fraction) -> None:
        if len(steps) == num_steps or setting.ended(text):
            law[steps] = law.get(steps, ZERO) + reached
            return
        for draft, drawn in drafts(rule, setting, text):
            for (path, token), probability in rule.law(draft).items():
                emitted = (*(draft.tree.tokens[node] for node in path), token)
                step = (draft.tree.tokens, visited(draft.tree, path), path, token)
                go(setting.cut((*text, *emitted)), (*steps, step), reached * drawn * probability)

    go((), (), ONE)
    return law


def target_law(setting: Setting, claim: Callable[[Row], Row] = lambda row: row) -> dict[Tokens, Fraction]:
    """The law of plain decoding, where each token follows `claim(p)`."""
    law: dict[Tokens, Fraction] = {}

    def extend(text: Tokens, probability: Fraction) -> None:
        if setting.ended(text):
            law[text] = probability
            return
        for token, mass in enumerate(claim(setting.p(text))):
            if mass:
                extend((*text, token), probability * mass)

    extend((), ONE)
    return law


def expected_accepted(rule: Rule, setting: Setting) -> Fraction:
    """Mean number of accepted draft tokens in the first step."""
    return sum(
        (
            drawn * probability * len(path)
            for draft, drawn in drafts(rule, setting, ())
            for (path, _), probability in rule.law(draft).items()
        ),
        ZERO,
    )


def deviation(a: dict[Tokens, Fraction], b: dict[Tokens, Fraction]) -> Fraction:
    """Total variation distance of two laws; 0 if and only if they are equal."""
    return sum((abs(a.get(key, ZERO) - b.get(key, ZERO)) for key in a.keys() | b.keys()), ZERO) / 2
