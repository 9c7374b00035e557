"""Drafters that no one would ship: one that is always right, one that is always wrong, and one that looks on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from specdec.cache import PagedCache, Pool
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.draft_model import DraftSource
from specdec.drafters.model import ModelDrafter
from specdec.verify.tree import DraftTree


class OracleDrafter(ModelDrafter):
    """Knows the target: it drafts with the target's own weights, in a pool of its own.

    Every draft token is then the target's own choice, and a step gains γ + 1 tokens: all bookkeeping of positions,
    slots and verdicts is right where τ = γ + 1, and somewhere wrong where it is less.
    """

    name = "oracle"

    def __init__(self, num_draft_tokens: int = 4, branches: int = 1) -> None:
        super().__init__("the target", num_draft_tokens, branches)

    def bind(self, target: TargetHandle) -> Needs:
        """Takes the target for its draft model."""
        self._source = DraftSource(self.name, target.model)
        return super().bind(target)

    def vocabulary(self) -> None:
        """The target's own."""


class PoisonDrafter(Drafter):
    """Random trees of random tokens. Whatever they are, no text may change.

    Args:
        seed: of the trees.
        num_draft_tokens, branches: their largest size.
    """

    name = "poison"

    def __init__(self, seed: int = 0, num_draft_tokens: int = 4, branches: int = 3) -> None:
        super().__init__(num_draft_tokens, branches)
        self._seed = seed

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """A function of the seed and of the text's length alone, so that it counts as deterministic."""
        return [self._tree(request) for request in requests]

    def _tree(self, request: DraftRequest) -> DraftTree:
        draw = random.Random(f"{self._seed}/{len(request.tokens)}")
        depth = min(self.num_draft_tokens, request.max_depth)
        chains = [
            [draw.randrange(request.transform.vocab_size) for _ in range(draw.randint(0, depth))]
            for _ in range(draw.randint(0, self.shape.widest))
        ]
        return DraftTree.from_chains(chains)


class RecordingDrafter(Drafter):
    """Proposes what another drafter proposes, and keeps everything that it is told.

    Args:
        inner: makes the proposals; left out, there are none.
        needs: what it asks for, besides what `inner` needs.
    """

    name = "recording"

    def __init__(self, inner: Drafter | None = None, needs: Needs | None = None) -> None:
        self._inner, self._needs = inner, needs or Needs()
        super().__init__(shape=inner.shape if inner is not None else None)
        self.deterministic = inner is None or inner.deterministic
        self.outcomes: dict[int, list[Outcome]] = {}
        """Request → outcomes since it (last) began."""
        self.forgotten: list[int] = []
        self.ended: dict[int, list[int]] = {}
        """Request → its whole text; a second end would be an error."""

    def bind(self, target: TargetHandle) -> Needs:
        """See `Drafter.bind`; an inner drafter may have pools, but no needs of its own beside them."""
        inner = self._inner.bind(target) if self._inner is not None else Needs()
        return replace(self._needs, pools=inner.pools, whole_prefix=inner.whole_prefix)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        if self._inner is not None:
            self._inner.attach(cache, pools)

    def max_nodes(self, max_depth: int) -> int:
        """As the inner drafter."""
        return self._inner.max_nodes(max_depth) if self._inner is not None else super().max_nodes(max_depth)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """As the inner drafter."""
        return self._inner.propose(requests) if self._inner is not None else [DraftTree()] * len(requests)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps them."""
        if self._inner is not None:
            self._inner.observe(outcomes)
        for outcome in outcomes:
            self.outcomes.setdefault(outcome.request_id, []).append(outcome)

    def forget(self, request_id: int) -> None:
        """The request starts anew."""
        if self._inner is not None:
            self._inner.forget(request_id)
        self.outcomes.pop(request_id, None)
        self.forgotten.append(request_id)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Keeps the text."""
        if self._inner is not None:
            self._inner.end(request_id, tokens)
        assert request_id not in self.ended, f"request {request_id} ended twice"
        self.ended[request_id] = list(tokens)
