"""How Medusa heads draft: each says a token further ahead, all from the last state that the target has given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import Layout, PagedCache, Pool
from specdec.drafters.base import DraftRequest, Outcome
from specdec.drafters.headparts import DraftWords, HeadOptions, take_in
from specdec.drafters.rowtrees import RowTrees
from specdec.heads.blockrun import BlockRows
from specdec.heads.medusa import MedusaHead
from specdec.heads.runs import medusa_run
from specdec.models.base import CausalLM
from specdec.models.rows import joined
from specdec.verify.tree import DraftTree


class MedusaDrafts:
    """See `HeadDrafts`.

    The target's last state of every committed token is kept, though only that of the last one but one is read: it has
    given the last token, and head i the one i + 1 behind it. No head knows what another says, so every node of a level
    has the same children.
    """

    def __init__(self, head: MedusaHead, target: CausalLM, options: HeadOptions) -> None:
        self._run = medusa_run(head, target, options.weights)
        self.shape = options.shape.truncated(head.config.num_drafted)
        self.layouts: tuple[Layout, ...] = (self._run.states,)
        words, places = DraftWords(head, target.kv_layout.device), range(head.config.vocab_size)
        self._rows = RowTrees(self._run.term, places, self.shape, options, words)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        [pool] = pools
        self._cache, self._pool = cache, pool

    def most_nodes(self) -> int:
        """See `HeadDrafts.most_nodes`."""
        return 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Runs the heads for all requests at once of whose tokens all states but the last one's are here."""
        return self._rows.drafts(requests, self._seen, self._said)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """See `HeadDrafts.observe`."""
        [states] = self._pool.tensors

        def keep(taps: Tensor, positions: Tensor, slots: Tensor) -> None:
            states[slots.to(states.device)] = taps[:, 0].to(states)

        take_in(self._cache, self._pool, outcomes, keep)

    def _seen(self, request: DraftRequest) -> bool:
        return self._cache.filled(request.request_id, self._pool) == len(request.tokens) - 1 > 0

    def _said(self, requests: list[DraftRequest]) -> tuple[BlockRows, list[int]]:
        [states] = self._pool.tensors
        slots = [self._cache.slots(one.request_id)[len(one.tokens) - 2 :][:1] for one in requests]
        logits = self._run.logits(states[joined(slots).to(states.device)])
        counts = [min(one.max_depth, self.shape.depth) for one in requests]
        asked = torch.cat([rows[:count] for rows, count in zip(logits, counts, strict=True)])
        return BlockRows(asked, None), counts
