"""How a block head drafts: one pass over the last token and masks, then a tree from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from specdec.cache import KVPool, Layout, PagedCache, Pool
from specdec.drafters.base import DraftRequest, Outcome
from specdec.drafters.headparts import DraftWords, HeadOptions, take_in
from specdec.drafters.rowtrees import RowTrees
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows
from specdec.heads.runs import block_run
from specdec.models.base import CausalLM
from specdec.models.batch import SequenceRows
from specdec.verify.tree import DraftTree


class BlockDrafts:
    """See `HeadDrafts`.

    Of every committed token the keys and values are kept that the head makes of the target's hidden states there; those
    of drafted rows never are. A block, the last token and masks behind it, is one pass of the head for all requests
    together. The token before a row adds its own term to the row's logits, so every node has its own children without
    another pass.
    """

    def __init__(self, head: BlockHead, target: CausalLM, options: HeadOptions) -> None:
        self.run = block_run(head, target, options.weights)
        self.shape = options.shape.truncated(head.config.num_drafted)
        self.layouts: tuple[Layout, ...] = (self.run.layout,)
        words = DraftWords(head, target.kv_layout.device)
        self._rows = RowTrees(self.run.term, self.run.places, self.shape, options, words)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        [pool] = pools
        assert isinstance(pool, KVPool)
        self._cache, self._pool = cache, pool

    def most_nodes(self) -> int:
        """See `HeadDrafts.most_nodes`: a block that is not causal is run whole."""
        return 0 if self.run.config.causal else self.run.config.block_size - 1

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Runs one block for each request whose tokens it has all seen."""
        return self._rows.drafts(requests, self._seen, self._blocks)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """See `HeadDrafts.observe`."""
        take_in(self._cache, self._pool, outcomes, partial(self.run.remember, self._pool))

    def _seen(self, request: DraftRequest) -> bool:
        return self._cache.filled(request.request_id, self._pool) == len(request.tokens) - 1

    def _blocks(self, requests: list[DraftRequest]) -> tuple[BlockRows, list[int]]:
        blocks = [self._block(request) for request in requests]
        return self.run.draft(self._pool, blocks), [len(block.logit_rows) for block in blocks]

    def _block(self, request: DraftRequest) -> SequenceRows:
        """The last token and its masks, in the slots that verified rows will take. A causal block need not be whole."""
        config, tokens = self.run.config, request.tokens
        first = config.block_size - config.num_drafted  # rows before it draft nothing
        end = first + min(request.max_depth, self.shape.depth)
        masks = [config.mask_token_id] * ((end if config.causal else config.block_size) - 1)
        slots = self._cache.slots(request.request_id)
        return SequenceRows([tokens[-1], *masks], slots, len(tokens) - 1, logit_rows=range(first, end))
