"""Growing trees with a language model, all sequences in one pass a level, or in one call altogether."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specdec.cache import KVPool
from specdec.drafters.growth import GrowingTree
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from specdec.verify.tree import DraftTree


def read_ahead(model: CausalLM, pool: KVPool, tokens: Sequence[int], slots: Tensor, committed: int, most: int) -> int:
    """Runs a long text but for its end, in passes of so many rows.

    Args:
        model, pool: who reads it, and where its entries go.
        tokens: of the text, those from `committed` on.
        slots: int64, of all its tokens.
        committed: tokens that are in the pool already.
        most: rows of a pass, which the rest does not exceed either.

    Returns:
        How many of the tokens were run.
    """
    done = 0
    while len(tokens) - done > most:
        end = committed + done + most
        rows = SequenceRows(tokens[done : done + most], slots[:end], committed + done)
        model.run(RaggedBatch.build([rows]), pool)
        done += most
    return done


def grow_trees(trees: Sequence[GrowingTree], model: CausalLM, pool: KVPool) -> list[DraftTree]:
    """Grows trees until each has its shape: chains in one call, where the model can; else `model` runs once per level
    for all sequences together.

    Slots for every tail and node must be reserved beforehand; the model's entries go to `pool`.
    """
    _draw_chains(trees, model, pool)
    while active := [tree for tree in trees if tree.growing]:
        batch = RaggedBatch.build([tree.rows() for tree in active])
        argmax = all(tree.by_argmax for tree in active)
        output = model.run(batch, pool, Wants(logits="argmax" if argmax else "all"))
        counts = [tree.num_rows for tree in active]
        for tree, rows in zip(active, output.split(counts, counts), strict=True):
            tree.grow(rows)
    for tree in trees:
        if tree.stop is not None:
            tree.stop.drafted(tree.request.request_id, tree.sureness)
    return [tree.tree() for tree in trees]


def _draw_chains(trees: Sequence[GrowingTree], model: CausalLM, pool: KVPool) -> None:
    """Draws those that the model can draw by itself: chains of its own tokens."""
    if not isinstance(model, NativeModel):
        return
    draws = [(tree, draw) for tree in trees if tree.known is None and (draw := tree.chain(model.vocab_size))]
    if not draws:
        return
    chains = model.draw([tree.rows() for tree, _ in draws], pool, [draw for _, draw in draws])
    for (tree, _), chain in zip(draws, chains, strict=True):
        if chain is not None:
            tree.take(chain)
