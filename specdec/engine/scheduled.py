"""What one request does in a pass."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.cache.paged import PagedCache
from specdec.drafters.base import DraftRequest
from specdec.engine.clock import Share
from specdec.engine.request import Request
from specdec.engine.tokens import TokenView
from specdec.models.batch import SequenceRows
from specdec.sampling.view import TransformView
from specdec.verify.tree import DraftTree, TreeShape

NO_TREE = DraftTree()


@dataclass(frozen=True)
class Scheduled:
    """A request's part of the next pass.

    Args:
        request: who.
        tail: uncached committed tokens that are run, from the first uncached one on.
        max_depth: longest branch that may be drafted below the tail.
        decodes: whether the tail reaches the last committed token, so that the step emits tokens.
    """

    request: Request
    tail: list[int]
    max_depth: int
    decodes: bool

    @property
    def probe(self) -> DraftTree:
        """What the request itself wants to be run below its tail; an empty tree if there is nothing."""
        probe = self.request.probe
        return probe.read if probe is not None and self.decodes else NO_TREE

    @property
    def by_argmax(self) -> bool:
        """Whether the argmax of each row of logits is all that is looked at."""
        request = self.request
        return (request.by_argmax or not self.decodes) and not request.scores_prompt

    def draft_request(self, max_depth: int, shape: TreeShape | None = None, floor: float = 0.0) -> DraftRequest:
        """What a drafter is asked. Where the text does not depend on the draft, the constraint is left out: forbidden
        nodes are taken out of the draft afterwards, which costs less than a mask for each node."""
        request = self.request
        return DraftRequest(
            request_id=request.id,
            tokens=TokenView(request.tokens),
            max_depth=max_depth,
            transform=TransformView(request.transform, confined=not request.rule.draft_invariant),
            rule=request.rule,
            key=request.key(),
            shape=shape,
            salt=request.params.cache_salt or "",
            store=request.params.store,
            prediction=request.prediction,
            num_prompt_tokens=len(request.prompt),
            floor=floor,
        )

    def rows(self, tree: DraftTree, cache: PagedCache, all_logits: bool = False) -> SequenceRows:
        """Tail and tree as reserved rows: node n is row len(tail) + n, and hangs on the tail's last row if it is a
        child of the root. Rows that are verified have logits, or all of them."""
        tail = len(self.tail)
        parents = None
        if not tree.is_chain:
            parents = [*range(-1, tail - 1), *(tail + parent for parent in tree.parents)]
        return SequenceRows(
            tokens=[*self.tail, *tree.tokens],
            slots=cache.slots(self.request.id),
            committed=cache.length(self.request.id),
            parents=parents,
            logit_rows=range(0 if all_logits else tail - 1 if self.decodes else tail, tail + len(tree)),
        )

    def share(self, tree: DraftTree) -> Share:
        """Tail rows before the last one are prefill; the last one and the draft's are what decoding costs."""
        if not self.decodes:
            return Share(self.request.stats, prefill_rows=len(self.tail), decode_rows=0)
        return Share(self.request.stats, prefill_rows=len(self.tail) - 1, decode_rows=1 + len(tree))
