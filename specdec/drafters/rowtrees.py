"""Drafts of heads that say all depths at once: a row of logits for each, and what the token before adds to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specdec.drafters.base import DraftRequest
from specdec.drafters.headparts import DraftWords, HeadOptions, start_tree
from specdec.drafters.likeliest import likeliest
from specdec.heads.blockrun import BlockRows
from specdec.kernels.markov import Grown, MarkovTerm
from specdec.models.base import PassOutput
from specdec.sampling.noise import Noise
from specdec.verify.tree import DraftTree, TreeShape

NO_SLOTS = torch.empty(0, dtype=torch.int64)


class RowTrees:
    """Makes drafts of rows.

    Args:
        term: what the token before a row adds.
        places: of each of the target's tokens its row in the term's W1.
        shape: what is drawn, where the rule asks for draws.
        options, words: of the head.
    """

    def __init__(
        self, term: MarkovTerm, places: Sequence[int], shape: TreeShape, options: HeadOptions, words: DraftWords
    ) -> None:
        self._term, self._places, self._shape, self._words = term, places, shape, words
        self._options = replace(options, deepen=0.0)  # no level costs a pass: every one is worth its candidates

    def drafts(
        self,
        requests: Sequence[DraftRequest],
        ready: Callable[[DraftRequest], bool],
        rows: Callable[[list[DraftRequest]], tuple[BlockRows, list[int]]],
    ) -> list[DraftTree]:
        """A draft for each request that is ready, an empty one for the others.

        Args:
            requests: who asks.
            ready: whether all that a request's rows are made of is there.
            rows: runs the head for those that are: rows of all of them, one after the other, and how many each has.
        """
        asked = {index: request for index, request in enumerate(requests) if ready(request)}
        if not asked:
            return [DraftTree() for _ in requests]
        own = list(asked.values())
        trees = dict(zip(asked, self._trees(own, *rows(own)), strict=True))
        return [trees.get(index, DraftTree()) for index in range(len(requests))]

    def _trees(self, requests: Sequence[DraftRequest], given: BlockRows, counts: list[int]) -> list[DraftTree]:
        """One draft each: the likeliest trees in one call, where scores are the logits, with noise at most."""
        plain = [index for index, request in enumerate(requests) if request.by_argmax or _noisy(request)]
        trees = dict(zip(plain, self._likeliest(requests, given, counts, plain), strict=True)) if plain else {}
        for index, (request, logits) in enumerate(zip(requests, torch.split(given.logits, counts), strict=True)):
            if index not in trees:
                trees[index] = self._drawn(request, logits)
        return [trees[index] for index in range(len(requests))]

    def _likeliest(
        self, requests: Sequence[DraftRequest], given: BlockRows, counts: Sequence[int], chosen: Sequence[int]
    ) -> list[DraftTree]:
        """The trees of largest chances of the requests that are chosen."""
        logits, confidences = given.logits, given.confidences
        noisy = any(_noisy(requests[index]) for index in chosen)
        if noisy or len(chosen) < len(requests):
            rows = torch.cat([torch.arange(sum(counts[:index]), sum(counts[: index + 1])) for index in chosen])
            rows = rows.to(logits.device)
            logits, confidences = logits[rows], None if confidences is None else confidences[rows]
        if noisy:  # the rows are copies
            for index, block in zip(chosen, torch.split(logits, [counts[index] for index in chosen]), strict=True):
                if noise := requests[index].noise:
                    self._add(noise, block)
        anchors = [self._places[requests[index].tokens[-1]] for index in chosen]
        own, nodes = [counts[index] for index in chosen], self._options.nodes
        floor = max(self._options.floor, min((requests[index].floor for index in chosen), default=0.0))
        grown = self._term.grow(logits, confidences, own, anchors, nodes, floor)
        return [self._tree(each) for each in grown]

    def _add(self, noise: Noise, block: Tensor) -> None:
        """Adds to a request's rows, [depth, Vd], what its target's draw adds to its own."""
        ids = None if self._words.map is None else self._words.map.ids
        for depth, row in enumerate(block):
            row += noise.at(depth, len(row), ids).to(row.device)

    def _tree(self, grown: Grown) -> DraftTree:
        return likeliest([self._words.ids[token] for token in grown.tokens], grown.parents, grown.chances)

    def _drawn(self, request: DraftRequest, logits: Tensor) -> DraftTree:
        """The draft that the request's rule draws from its scores, level by level; logits: [depth, Vd]."""
        shape = self._shape.truncated(len(logits))
        tree = start_tree(request, shape, self._options, self._words, NO_SLOTS, 0, ())
        while tree.growing and tree.level < len(logits):
            nodes = tree.tokens[tree.num_run :] or request.tokens[-1:]
            row, places = logits[tree.level], self._places
            tree.grow(PassOutput(torch.stack([self._term.corrected(row, places[token]) for token in nodes])))
        return tree.tree()


def _noisy(request: DraftRequest) -> bool:
    """Whether the target draws under noise that is known, and nothing else is done to its logits."""
    return request.noise is not None and not request.noise.params.filters
