"""Rows of a large vocabulary cut down to the tokens that matter to a verdict.

Each row keeps the k most probable tokens of p, those of the q that its candidates came from, and the candidates. All
other tokens become one, in column 0, with the mass that they have together. A verdict's counts are then

- exact (to rounding) for every lossless rule on a deterministic draft, for rules that test one candidate of a node
  against p(x)/q(x) (token, and multiround, rrs and kseq where no node has two), and for greedy;
- a lower bound for block, and for traversal and hsd on chains: merging tokens makes Z = Σ(P·p - q)+ smaller, by at most
  the smaller mass, R, that p and q have outside both top-k sets; with the same random numbers never more is accepted.
  With R_j in the row after j draft tokens, the mean accepted length falls short by at most the mean of Σ_{0<j<γ} j·R_j:
  prefix j is reached from longer ones with a mean chance of Z_j + 1 - P_j, the denominator of its own test;
- approximate for the other rules where a node has several candidates: by up to R too much of min(p, q) counts as
  shared, and a later candidate's test is divided by what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.verify.tree import ROOT, DraftTree

REST, NO_TOKEN = -1, -2


def compacted(tree: DraftTree, scores: Tensor, k: int) -> tuple[DraftTree, Tensor, Tensor]:
    """One step over at most 2k + 2 tokens and the candidates.

    Args:
        tree: N nodes, P of which have children; q float32 [P, V] or None.
        scores: float32 [N + 1, V].
        k: tokens to keep.

    Returns:
        The tree with columns for tokens and q float32 [P, W]; scores, float32 [N + 1, W]; the columns' token ids, int32
        [N + 1, W], ascending after column 0.
    """
    kept = [_kept(tree, scores, node, k) for node in range(ROOT, len(tree))]
    width = 1 + max(map(len, kept))
    small = scores.new_full((len(scores), width), -math.inf)
    ids = torch.full((len(scores), width), NO_TOKEN, dtype=torch.int32)
    for row, tokens in enumerate(kept):
        columns = slice(1, 1 + len(tokens))
        small[row, columns], ids[row, columns] = scores[row, tokens], tokens.int()
        small[row, 0] = scores[row].double().index_fill(0, tokens, -math.inf).logsumexp(0)
        ids[row, 0] = REST
    places = [
        1 + int(torch.searchsorted(kept[parent + 1], token))
        for token, parent in zip(tree.tokens, tree.parents, strict=True)
    ]
    q = None if tree.q is None else _small_q(tree.q, [kept[node + 1] for node in tree.shape.inner], width)
    return DraftTree(tuple(places), tree.parents, q), small, ids


def without_rest(scores: Tensor) -> Tensor:
    """The same rows for an argmax, which asks for one token's probability and not for that of the rest together."""
    scores = scores.clone()
    scores[:, 0] = -math.inf
    return scores


def _kept(tree: DraftTree, scores: Tensor, node: int, k: int) -> Tensor:
    """Ids to keep of the row after `node`, int64, ascending. The first argmax is among them, also if others tie it."""
    row, children = scores[node + 1], tree.children(node)
    k = min(k, len(row))
    sets = [row.topk(k).indices, row.argmax()[None], torch.tensor([tree.tokens[c] for c in children], dtype=torch.long)]
    if (q := tree.q_below(node)) is not None:
        sets.append(q.topk(k).indices)
    ids: Tensor = torch.unique(torch.cat(sets))
    return ids


def _small_q(q: Tensor, kept: Sequence[Tensor], width: int) -> Tensor:
    small = q.new_zeros(len(q), width)
    for row, tokens in enumerate(kept):
        small[row, 1 : 1 + len(tokens)] = q[row, tokens]
        small[row, 0] = q[row].double().index_fill(0, tokens, 0.0).sum()
    return small
