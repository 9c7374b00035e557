"""Hierarchical speculative decoding with capped branch resampling (Zhou et al., ICLR 2026, arXiv 2601.05724)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import StepKey, Verdict
from specdec.verify.draws import IndependentDraws
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, Row, emit, exact_positive_part, normalized
from specdec.verify.residuals import draft_probability, keep_probability, positive_part
from specdec.verify.tree import ROOT, DraftTree

Nodes = tuple[int, ...]


class HierarchicalRule(IndependentDraws):
    """Keeps the longest prefix of a branch that passes its test, then tries the next branch below that prefix.

    On a branch x_1 … x_γ the capped prefix ratio is r_t = min(1, r_{t-1}·p_{t-1}(x_t)/q_{t-1}(x_t)): the product of the
    ratios since the prefix where it was largest, if that was above 1 (Definitions 4 and 5). D_t = Σ (r_t·p_t - q_t)+ is
    what q lacks below prefix t (Definition 6), D_t + 1 - r_t what it has too much (Theorem 2). Prefix t passes with
    h_t = D_t / (D_t + 1 - r_t), the whole branch with r_γ (Equation 19); the product of all its ratios, which the
    paper's own code takes there, is not lossless. Where prefix t < γ is kept, norm[(r_t·p_t - q_t)+] takes the place of
    p_t (Equation 20), and a candidate left at its end leads the next branch, with ratios that start from 1
    (Algorithm 3). On a chain this is block verification.
    """

    name = "hsd"

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Branch after branch, until no candidate is left where the kept path ends."""
        path: Nodes = ()
        p, left = probabilities(scores[0]), tree.children(ROOT)
        while left:
            branch = _first_branch(tree, left[0])
            kept, p = _scan(tree, branch, [p, *(probabilities(scores[node + 1]) for node in branch)], key)
            path += branch[:kept]
            left = tree.children(path[-1])[1:] if kept else left[1:]
        stream = Stream.RESIDUAL if tree.children(path[-1] if path else ROOT) else Stream.BONUS
        return Verdict(path, sample_from_weights(p, key.random.uniform(stream, key.anchor + len(path), key.anchor)))

    def law(self, draft: ExactDraft) -> Law:
        """The same branches, and every prefix of each that may be kept."""
        law: Law = {}

        def walk(path: Nodes, p: Row, left: list[int], probability: Fraction) -> None:
            if not left:
                emit(law, path, probability, p)
                return
            branch = _first_branch(draft.tree, left[0])
            for kept, chance, rest in _scan_law(draft, branch, p):
                below = draft.tree.children(branch[kept - 1])[1:] if kept else left[1:]
                walk(path + branch[:kept], rest, below, probability * chance)

        walk((), draft.p[0], draft.tree.children(ROOT), ONE)
        return law


def _first_branch(tree: DraftTree, node: int) -> Nodes:
    """`node`, its first child, that one's first child and so on, down to a leaf."""
    branch = [node]
    while children := tree.children(branch[-1]):
        branch.append(children[0])
    return tuple(branch)


def _scan(tree: DraftTree, branch: Nodes, p: Sequence[Tensor], key: StepKey) -> tuple[int, Tensor]:
    """How many nodes are kept, and the law of the token after them.

    Args:
        tree: the draft.
        branch: γ nodes.
        p: γ + 1 rows, float32 [V], before the branch and after each of its nodes.
        key: the step's random numbers.
    """
    x = [tree.tokens[node] for node in branch]
    q = [tree.q_below(tree.parents[node]) for node in branch]
    r = [1.0]
    for t in range(len(branch)):
        r.append(min(1.0, r[t] * float(p[t][x[t]]) / draft_probability(x[t], q[t])))
    for t in range(len(branch), 0, -1):
        rest = p[t] if t == len(branch) else positive_part(p[t], q[t], x[t], r[t])
        h = r[t] if t == len(branch) else keep_probability(float(rest.sum()), r[t])
        node = branch[t - 1]
        if key.random.uniform(Stream.ACCEPT, key.anchor + tree.depths[node], key.anchor, node) < h:
            break
    else:
        t, rest = 0, positive_part(p[0], q[0], x[0])
    mass = rest.sum()
    return t, rest / mass if mass > 0 else p[t]  # only rounding leaves nothing: a longer prefix has passed


def _scan_law(draft: ExactDraft, branch: Nodes, first: Row) -> Iterator[tuple[int, Fraction, Row]]:
    """Number of nodes kept, its probability, and the law of the token after them."""
    p = [first, *(draft.p[node + 1] for node in branch)]
    q = [draft.q_of(draft.tree.parents[node], node) for node in branch]
    r = [ONE]
    for t, node in enumerate(branch):
        x = draft.tree.tokens[node]
        r.append(min(ONE, r[t] * p[t][x] / q[t][x]))
    reached = ONE
    for t in range(len(branch), -1, -1):
        rest, h = p[t], r[t]
        if t < len(branch):
            rest = exact_positive_part(p[t], q[t], r[t])
            h = keep_probability(sum(rest, ZERO), r[t]) if t > 0 else ONE
        if reached * h:
            yield t, reached * h, normalized(rest)
        reached *= ONE - h
