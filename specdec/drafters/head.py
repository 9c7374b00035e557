"""A trained head: it reads the target's hidden states, and drafts a block in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from specdec.cache import KVPool, PagedCache, Pool
from specdec.checks import either, instance, number, shown, take, text, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.dynamic import DynamicTree, kinds_of
from specdec.drafters.growth import GrowingTree, TokenMap
from specdec.drafters.sizes import MOST_NODES
from specdec.errors import ConfigError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, BlockRun
from specdec.heads.runs import block_run
from specdec.heads.shipped import head_for
from specdec.kernels.attention.columns import depths
from specdec.kernels.linear import KINDS
from specdec.kernels.markov import Grown
from specdec.models.base import PassOutput
from specdec.models.batch import SequenceRows
from specdec.models.rows import joined
from specdec.verify.tree import ROOT, DraftTree, TreeShape

HEAD = either(text(), instance(Path, "a path"), instance(Head, "a head")).or_none(" for the one that ships")
NODES = whole(1, MOST_NODES)
WEIGHTS = text(f"one of {', '.join(KINDS)}").or_none(" for the target's")
FLOOR = number(lambda value: 0 <= value < 1, "a number from 0 to less than 1")
WIDTH = 4
"""Candidates of a node, and nodes of a level that are gone on from, where logits are edited."""
NO_SLOTS = torch.empty(0, dtype=torch.int64)


class HeadDrafter(Drafter):
    """Drafts with a block head (`specdec.heads.block`).

    Of every committed token it keeps the keys and values that the head makes of the target's hidden states there, in a
    pool beside the target's: those of drafted rows are never kept. A block, the last token and masks behind it, is one
    pass of the head for all requests together. The token before a row adds its own term to the row's logits, so every
    node has its own children without another pass.

    At temperature 0 the draft is the tree of largest chances, the confidence head's times the softmax's. Under other
    rules it is drawn, node by node, as the rule's proof asks: a chain, or the tree of `branches` or `choices`. q is the
    law of the drawn token over all of the target's tokens, those that the head does not know among them: 0.

    A request of whose tokens it has not seen all hidden states goes without a draft.

    Sources: Chen et al. 2026 (DFlash, arXiv 2602.06036), DSpark (arXiv 2607.05147), JetSpec (arXiv 2606.18394).

    Args:
        head: folder of the head, or a head; None takes the one that ships for the target.
        num_draft_tokens: γ, the longest branch; the head's own block may be shorter.
        max_nodes: most tokens of a tree.
        floor: a node of a tree is drafted only if the chance that it and those above it are accepted is at least so
            large.
        branches: candidates for the first drawn token, each continued as a chain.
        choices: what is drawn by the ranks of its branches instead (see `TreeShape.choices`).
        weights: form of the head's weights on the CPU's kernels: float32, bfloat16, int8 or int8_weight; None takes the
            target's.

    Raises:
        ConfigError: for a value that cannot work.
    """

    name = "head"
    deterministic = False
    trimmable = True

    def __init__(
        self,
        head: str | Path | Head | None = None,
        num_draft_tokens: int = 6,
        max_nodes: int = 12,
        floor: float = 0.03,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(num_draft_tokens, branches, self.chosen(choices))
        self._source: str | Path | Head | None = take("head", head, HEAD)
        self._nodes: int = take("max_nodes", max_nodes, NODES)
        self._weights: str | None = take("weights", weights, WEIGHTS)
        if self._weights is not None and self._weights not in KINDS:
            raise ConfigError(f"weights = {shown(weights)} cannot work. Give one of {', '.join(KINDS)}.")
        self._floor: float = take("floor", floor, FLOOR)
        self._run: BlockRun | None = None
        self._cache: PagedCache | None = None
        self._pool: KVPool | None = None

    def max_nodes(self, max_depth: int) -> int:
        """See `Drafter.max_nodes`."""
        if max_depth == 0:
            return 0
        least = 0 if self._run is None or self._run.config.causal else self._run.config.block_size - 1
        return max(self._nodes, super().max_nodes(max_depth), least)

    def bind(self, target: TargetHandle) -> Needs:
        """Loads the head.

        Raises:
            ConfigError: if there is none for that target, or it is of another kind.
        """
        head = self._source if isinstance(self._source, Head) else head_for(target.model, self._source)
        if not isinstance(head, BlockHead):
            raise ConfigError(
                f"drafter 'head' runs heads of the architecture 'block', and this one is {head.config.architecture!r}. "
                "Train or choose a block head."
            )
        config, self._run = head.config, block_run(head, target.model, self._weights)
        self.shape = self.shape.truncated(config.num_drafted)
        self._ids: list[int] = head.draft_ids.tolist()
        everything = config.draft_vocab_size == config.vocab_size
        device = target.model.kv_layout.device
        self._known = None if everything else TokenMap({token: at for at, token in enumerate(self._ids)}, device)
        return Needs(hidden=config.taps, pools=(self._run.layout,), whole_prefix=True)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        [pool] = pools
        assert isinstance(pool, KVPool)
        self._cache, self._pool = cache, pool

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Runs one block for each request whose tokens it has all seen."""
        cache, pool, head = self._cached, self._entries, self._head
        trees = {index: DraftTree() for index in range(len(requests))}
        ready = {
            index: request
            for index, request in enumerate(requests)
            if cache.filled(request.request_id, pool) == len(request.tokens) - 1
        }
        if ready:
            blocks = [self._block(request) for request in ready.values()]
            given = head.draft(pool, blocks)
            counts = [len(block.logit_rows) for block in blocks]
            trees.update(zip(ready, self._trees(list(ready.values()), given, counts), strict=True))
        return list(trees.values())

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Takes in the hidden states of all tokens that stay, whoever drafted them."""
        cache, pool = self._cached, self._entries
        fresh = [one for one in outcomes if one.hidden is not None and self._follows(one)]
        if not fresh:
            return
        spans = [(one.start, one.start + len(one.rows)) for one in fresh]
        taps = joined([_kept(one) for one in fresh])
        positions = joined([torch.arange(start, end) for start, end in spans])
        slots = [cache.slots(one.request_id)[start:end] for one, (start, end) in zip(fresh, spans, strict=True)]
        self._head.remember(pool, taps, positions, joined(slots))
        for one, (_, end) in zip(fresh, spans, strict=True):
            cache.fill(one.request_id, pool, end)

    @property
    def _head(self) -> BlockRun:
        assert self._run is not None, "bind() comes first"
        return self._run

    @property
    def _cached(self) -> PagedCache:
        if self._cache is None:
            raise ConfigError("The head drafter was used before attach(); pass it to a SpeculativeGenerator.")
        return self._cache

    @property
    def _entries(self) -> KVPool:
        assert self._pool is not None, "attach() comes first"
        return self._pool

    def _follows(self, one: Outcome) -> bool:
        """Whether its rows go on where the pool ends. Behind a hole nothing is kept, since nothing could be read."""
        cache, seq = self._cached, one.request_id
        return seq in cache and cache.filled(seq, self._entries) >= one.start

    def _block(self, request: DraftRequest) -> SequenceRows:
        """The last token and its masks, in the slots that verified rows will take. A causal block need not be whole."""
        config, tokens = self._head.config, request.tokens
        first = config.block_size - config.num_drafted  # rows before it draft nothing
        end = first + min(request.max_depth, self.num_draft_tokens)
        masks = [config.mask_token_id] * ((end if config.causal else config.block_size) - 1)
        slots = self._cached.slots(request.request_id)
        return SequenceRows([tokens[-1], *masks], slots, len(tokens) - 1, logit_rows=range(first, end))

    def _trees(self, requests: Sequence[DraftRequest], given: BlockRows, counts: list[int]) -> list[DraftTree]:
        """One draft for each block: where the argmax alone counts the likeliest tree, all of them in one call."""
        plain = [index for index, request in enumerate(requests) if request.by_argmax]
        trees = dict(zip(plain, self._likeliest(requests, given, counts, plain), strict=True)) if plain else {}
        for index, (request, logits) in enumerate(zip(requests, torch.split(given.logits, counts), strict=True)):
            if index not in trees:
                trees[index] = self._drawn(request, logits)
        return [trees[index] for index in range(len(requests))]

    def _likeliest(
        self, requests: Sequence[DraftRequest], given: BlockRows, counts: Sequence[int], chosen: Sequence[int]
    ) -> list[DraftTree]:
        """The trees of largest chances of the blocks that are chosen."""
        logits, confidences = given.logits, given.confidences
        if len(chosen) < len(requests):
            rows = torch.cat([torch.arange(sum(counts[:index]), sum(counts[: index + 1])) for index in chosen])
            rows = rows.to(logits.device)
            logits, confidences = logits[rows], None if confidences is None else confidences[rows]
        anchors = [self._head.places[requests[index].tokens[-1]] for index in chosen]
        grown = self._head.term.grow(
            logits, confidences, [counts[index] for index in chosen], anchors, self._nodes, self._floor
        )
        return [self._tree(each) for each in grown]

    def _tree(self, grown: Grown) -> DraftTree:
        tokens = tuple(self._ids[token] for token in grown.tokens)
        kinds = kinds_of(depths(grown.parents, len(tokens)), grown.chances)
        return DraftTree(tokens, tuple(grown.parents), None, kinds, tuple(grown.chances))

    def _drawn(self, request: DraftRequest, logits: Tensor) -> DraftTree:
        """The draft that the request's rule draws from its scores, level by level; logits: [depth, Vd]."""
        depth = len(logits)
        tree: GrowingTree
        if request.rule.by_argmax:  # single logits are edited: the tree of largest chances, by the scores
            most = TreeShape((*TreeShape.chain(depth).parents, *[ROOT] * max(self._nodes - depth, 0)))
            tree = DynamicTree(request, most, NO_SLOTS, 0, (), known=self._known, width=WIDTH)
        else:
            shape = (request.shape or self.shape).truncated(depth)
            tree = GrowingTree(request, shape, NO_SLOTS, 0, (), known=self._known)
        while tree.growing and tree.level < len(logits):
            nodes = tree.tokens[tree.num_run :] or request.tokens[-1:]
            row, places = logits[tree.level], self._head.places
            tree.grow(PassOutput(torch.stack([self._head.term.corrected(row, places[token]) for token in nodes])))
        return tree.tree()


def _kept(one: Outcome) -> Tensor:
    """Hidden states of the rows that stay, [n, k, H]."""
    assert one.hidden is not None
    return one.hidden[one.rows] if one.path else one.hidden[: len(one.tail)]
