"""How a head drafts that goes token by token: it catches up with the text, then grows trees level by level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVPool, Layout, PagedCache, Pool
from specdec.drafters.base import DraftRequest, Outcome
from specdec.drafters.growth import GrowingTree
from specdec.drafters.headparts import WIDTH, DraftWords, HeadOptions, start_tree, take_in
from specdec.drafters.likeliest import LikeliestTree, likeliest
from specdec.heads.pairrun import PairRows
from specdec.heads.pairs import PairHead
from specdec.heads.runs import pair_run
from specdec.kernels.device import upload
from specdec.models.base import CausalLM
from specdec.models.batch import SequenceRows
from specdec.models.rows import joined
from specdec.verify.tree import DraftTree


class PairDrafts:
    """See `HeadDrafts`.

    A pair is the target's state at one position and the token at the next, and lies at the slot of that token. Two
    pools follow the text: the states of all committed tokens, and keys and values of their pairs. The last token's pair
    can be run as soon as the token is known, which is when a draft is asked for: then all pairs that are new run in one
    pass, whose last row is the first step of the draft. Every further level is one pass for all requests together, and
    reads the states that the last one gave. On the CPU's kernels one call does this for all levels of a tree of the
    likeliest nodes, on Triton's one graph. What a draft writes is never kept: a committed pair is
    always made of the target's own state.
    """

    def __init__(self, head: PairHead, target: CausalLM, options: HeadOptions) -> None:
        self.run, self.shape = pair_run(head, target, options.weights), options.shape
        self.layouts: tuple[Layout, ...] = (self.run.layout, self.run.states)
        self._options, self._words = options, DraftWords(head, target.kv_layout.device)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        entries, states = pools
        assert isinstance(entries, KVPool)
        self._cache, self._entries, self._states = cache, entries, states

    def most_nodes(self) -> int:
        """See `HeadDrafts.most_nodes`."""
        return 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Grows a tree for each request of whose tokens all states but the last one's are here."""
        ready = {
            index: self._start(request)
            for index, request in enumerate(requests)
            if self._cache.filled(request.request_id, self._states) == len(request.tokens) - 1 > 0
        }
        drafts = dict(zip(ready, self._grown(list(ready.values())), strict=True))
        return [drafts.get(index, DraftTree()) for index in range(len(requests))]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """See `HeadDrafts.observe`."""
        [pool] = self._states.tensors

        def keep(taps: Tensor, positions: Tensor, slots: Tensor) -> None:
            pool[_there(slots, pool)] = self.run.fuse(taps).to(pool.dtype)

        take_in(self._cache, self._states, outcomes, keep)

    def _start(self, request: DraftRequest) -> GrowingTree:
        """A tree to grow. Of a long text that was never seen, all but the last piece is run here."""
        cache, seq, tokens = self._cache, request.request_id, request.tokens
        slots, most = cache.slots(seq)[1:], self._options.most_rows  # the first token has no pair
        done, pairs = max(cache.filled(seq, self._entries) - 1, 0), len(tokens) - 1
        while pairs - done > most:
            piece = SequenceRows(tokens[done + 1 : done + most + 1], slots, done)
            self.run.step(self._entries, [piece], self._given([(seq, done, done + most)])[0], top=0)
            done += most
        limit = self.shape.depth if request.rule.draft_invariant else self._options.drawn
        shape = self.shape.truncated(min(request.max_depth, limit))
        return start_tree(request, shape, self._options, self._words, slots, done, tokens[done + 1 :])

    def _given(self, spans: Sequence[tuple[int, int, int]]) -> Sequence[Tensor]:
        """The target's states at some positions of some texts, [end - start, h] each.

        Args:
            spans: text, start and end.
        """
        [pool] = self._states.tensors
        slots = joined([self._cache.slots(seq)[start:end] for seq, start, end in spans])
        return torch.split(pool[_there(slots, pool)], [end - start for _, start, end in spans])

    def _grown(self, trees: Sequence[GrowingTree]) -> list[DraftTree]:
        """The drafts: the likeliest trees all at once, others level by level."""
        ends = [len(tree.request.tokens) - 1 for tree in trees]
        if not trees:
            return []
        firsts = self._given(
            [(tree.request.request_id, tree.committed, end) for tree, end in zip(trees, ends, strict=True)]
        )
        drafts = self._at_once(trees, firsts)
        self._draw_chains(trees, firsts)
        rest = [index for index, tree in enumerate(trees) if index not in drafts and tree.drawn is None]
        self._by_levels([trees[index] for index in rest], [firsts[index] for index in rest])
        for tree, end in zip(trees, ends, strict=True):
            self._cache.fill(tree.request.request_id, self._entries, end)
        return [drafts[index] if index in drafts else tree.tree() for index, tree in enumerate(trees)]

    def _at_once(self, trees: Sequence[GrowingTree], firsts: Sequence[Tensor]) -> dict[int, DraftTree]:
        """Those trees, by their places, that the run of the head can grow by itself."""
        size = self.run.config.draft_vocab_size
        fit = {
            index: tree for index, tree in enumerate(trees) if isinstance(tree, LikeliestTree) and tree.by_itself(size)
        }
        if not fit:
            return {}
        parts, states = [tree.rows() for tree in fit.values()], joined([firsts[index] for index in fit])
        grown = self.run.grow(self._entries, parts, states, [tree.limits for tree in fit.values()])
        return {index: likeliest(*each) for index, each in zip(fit, grown, strict=True) if each is not None}

    def _draw_chains(self, trees: Sequence[GrowingTree], firsts: Sequence[Tensor]) -> None:
        """Draws those that the run of the head can draw by itself: chains from its logits as they are."""
        known = self.run.config.draft_vocab_size
        draws = {index: draw for index, tree in enumerate(trees) if (draw := tree.chain(known)) is not None}
        if not draws:
            return
        parts, states = [trees[index].rows() for index in draws], joined([firsts[index] for index in draws])
        size = trees[0].request.transform.vocab_size
        drawn = self.run.draw(self._entries, parts, states, list(draws.values()), size)
        for index, chain in zip(draws, drawn, strict=True):
            if chain is not None:
                trees[index].take(chain)

    def _by_levels(self, trees: Sequence[GrowingTree], firsts: Sequence[Tensor]) -> None:
        """Runs the head once a level for all trees together."""
        growing = list(zip(trees, firsts, strict=True))
        while growing:
            active = [tree for tree, _ in growing]
            top = WIDTH if any(tree.request.by_argmax for tree in active) else 0
            states, counts = joined([own for _, own in growing]), [tree.num_rows for tree in active]
            given = self.run.step(self._entries, [tree.rows() for tree in active], states, top)
            grown = zip(active, given.split(counts), strict=True)
            growing = [(tree, following) for tree, rows in grown if len(following := _following(tree, rows))]


def _there(slots: Tensor, pool: Tensor) -> Tensor:
    """Slots, int64 [n] on the host, where the pool is."""
    return upload([slots], torch.int64, pool.device)[0]


def _following(tree: GrowingTree, rows: PairRows) -> Tensor:
    """Draws the next level below the rows that were just run. Returns the states of its rows, those that their parents
    gave; none if nothing more is run."""
    before = tree.num_run
    tree.grow(rows.output)
    level = range(tree.num_run, len(tree.tokens)) if tree.growing else ()
    parents = [max(tree.parents[node] - before, 0) for node in level]  # the root's is the only row
    return rows.states.index_select(0, torch.tensor(parents, dtype=torch.int64, device=rows.states.device))
