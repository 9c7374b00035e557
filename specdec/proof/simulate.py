"""The sampled face of a rule, run in a `Setting` as the engine runs it: draw a tree, judge it, go on."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specdec.proof.exact import Conditional, Setting, Step, Tokens, visited
from specdec.randomness import RandomSource
from specdec.sampling import probabilities
from specdec.verify.base import Rule, StepKey
from specdec.verify.rational import Row
from specdec.verify.tree import ROOT, DraftTree

PROMPT_TOKENS = 3
"""Committed tokens before the first step; any number would do."""


def simulate(rule: Rule, setting: Setting, random: RandomSource, num_steps: int) -> tuple[Step, ...]:
    """Runs the first steps of a text."""
    steps: list[Step] = []
    text: Tokens = ()
    while len(steps) < num_steps and not setting.ended(text):
        key = StepKey(random, anchor=PROMPT_TOKENS + len(text))
        tree = _draft(rule, setting, text, key)
        [verdict] = rule.accept([tree], [scores_after(setting.p, text, tree)], [key])
        steps.append((tree.tokens, visited(tree, verdict.path), verdict.path, verdict.next_token))
        text = setting.cut((*text, *verdict.tokens(tree)))
    return tuple(steps)


def verdict_on(rule: Rule, setting: Setting, tree: DraftTree, random: RandomSource) -> tuple[Tokens, int]:
    """Accepted path and next token of a first step whose draft was drawn already.

    Args:
        tree: tokens and shape; its q is that of the setting.
    """
    inner = [node for node in range(ROOT, len(tree)) if tree.children(node)]
    q = None
    if setting.q is not None and rule.needs_q:
        q = torch.stack([probabilities(row_scores(setting.q(tree.prefix(node)))) for node in inner])
    given = DraftTree(tree.tokens, tree.parents, q)
    [verdict] = rule.accept([given], [scores_after(setting.p, (), tree)], [StepKey(random, anchor=PROMPT_TOKENS)])
    return verdict.path, verdict.next_token


def _draft(rule: Rule, setting: Setting, text: Tokens, key: StepKey) -> DraftTree:
    """A tree of the setting's shape."""
    depth = setting.max_tokens - len(text) - 1
    if setting.propose is not None:
        return setting.propose(text).truncated(depth)
    if setting.q is None or depth == 0:
        return DraftTree()
    shape = setting.shape.truncated(depth)
    tokens: list[int] = []
    parents: list[int] = []
    q: dict[int, Tensor] = {}
    place = {ROOT: ROOT}
    for at in shape.inner:
        if at not in place:
            continue
        node, children = place[at], shape.children(at)
        prefix = DraftTree(tuple(tokens), tuple(parents)).prefix(node)
        lanes = range(len(tokens), len(tokens) + len(children))
        drawn, row = rule.draw(row_scores(setting.q((*text, *prefix))), key, len(prefix), lanes)
        place |= {child: len(tokens) + i for i, child in enumerate(children[: len(drawn)])}
        tokens += drawn
        parents += [node] * len(drawn)
        if row is not None and drawn:
            q[node] = row
    return DraftTree(tuple(tokens), tuple(parents), torch.stack([q[node] for node in sorted(q)]) if q else None)


@lru_cache(maxsize=4096)
def row_scores(row: Row) -> Tensor:
    """log p, float32 [V]."""
    return torch.tensor([float(mass) for mass in row], dtype=torch.float64).log().float()


def scores_after(p: Conditional, text: Tokens, tree: DraftTree) -> Tensor:
    """float32 [N + 1, V], the target's rows for one tree."""
    rows = [p((*text, *tree.prefix(node))) for node in range(ROOT, len(tree))]
    return torch.stack([row_scores(row) for row in rows])
