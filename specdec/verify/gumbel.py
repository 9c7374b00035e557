"""Gumbel coupling: draft and target share their noise, and the output depends on the target alone.

Source: Daliri, Musco and Suresh, "Coupling without communication and drafter-invariant speculative decoding" (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from specdec.kernels.rows import gumbel_argmax
from specdec.verify.base import Rule, StepKey, Verdict, walk_matching
from specdec.verify.draws import without_replacement_law
from specdec.verify.races import race_law
from specdec.verify.rational import ONE, DrawLaw, ExactDraft, Law, Row, add, normalized
from specdec.verify.tree import ROOT, DraftTree


class GumbelRule(Rule):
    """Emits argmax(log p + g) with g = g(seed, position, token), and keeps drafted tokens while they agree.

    The emitted token never looks at the draft, so the text is a function of (seed, prompt, p): the same with any
    drafter, any number of draft tokens, and none. For a one-hot q it accepts with probability p(x), as rejection does.
    """

    name = kernel = "gumbel"
    draft_invariant = noisy_argmax = True

    def draw(self, scores: Tensor, key: StepKey, depth: int, lanes: Sequence[int]) -> tuple[list[int], None]:
        """The tokens with the largest log q + g, best first: those the target's own draw will most likely hit."""
        if len(lanes) == 1:
            return [gumbel_argmax(scores, key.random, key.anchor + depth)], None
        noisy = scores + key.random.gumbel(key.anchor + depth, scores.shape[-1]).to(scores.device)
        best = noisy.topk(min(len(lanes), int(torch.isfinite(scores).sum())))
        return best.indices.tolist(), None

    def draw_law(self, q: Row, num_candidates: int) -> DrawLaw:
        """The ranking of log q + g is a sequence of draws without replacement (Plackett and Luce)."""
        return without_replacement_law(q, num_candidates)

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Walks down the tree along the target's own perturbed argmax, drawing only for the rows it visits."""
        return walk_matching(tree, lambda row, depth: gumbel_argmax(scores[row], key.random, key.anchor + depth))

    def law(self, draft: ExactDraft) -> Law:
        """Emission given the candidates, node by node: the noise of different positions is independent."""
        law: Law = {}

        def walk(node: int, path: tuple[int, ...], probability: Fraction) -> None:
            children = draft.tree.children(node)
            tokens = tuple(draft.tree.tokens[child] for child in children)
            emitted = draft.p[node + 1]
            if draft.q is not None and children:
                joint = race_law(draft.p[node + 1], draft.q[node + 1], len(children))
                emitted = normalized(joint[tokens])
            for token, chance in enumerate(emitted):
                if not chance:
                    continue
                if token in tokens:
                    child = children[tokens.index(token)]
                    walk(child, (*path, child), probability * chance)
                else:
                    add(law, (path, token), probability * chance)

        walk(ROOT, (), ONE)
        return law
