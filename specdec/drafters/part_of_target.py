"""Self-speculation: a part of the target drafts, and the target's own cache serves it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from specdec.cache import PagedCache, Pool
from specdec.checks import flag, take
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.dynamic import start_tree
from specdec.drafters.growing import grow_trees
from specdec.drafters.stopping import stop_rule
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.verify.tree import DraftTree


class PartOfTargetDrafter(Drafter):
    """Drafts with some of the target's layers, and its norm and head.

    The keys and values that it reads of committed tokens are the target's own, so nothing is cached twice and nothing
    must be caught up. Draft rows are written, for the layers that run, to the slots in which the verification pass
    writes the same tokens for all layers.

    Args:
        num_draft_tokens: γ, length of a branch.
        branches: candidates for the first drafted token, each continued as a chain.
        choices: the tree by the ranks of its branches instead (see `TreeShape.choices`).
        stop, stop_below: rule that ends a branch early, "entropy" or "survival", and its bound (`drafters.stopping`).
        dynamic: keep of the candidates those that the drafting model is surest of, as many as the tree above has nodes
            (`drafters.dynamic`), where the text does not depend on the draft.
    """

    deterministic = False

    def __init__(
        self,
        num_draft_tokens: int,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        stop: str | None = None,
        stop_below: float | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(num_draft_tokens, branches, self.chosen(choices))
        self.dynamic: bool = take("dynamic", dynamic, flag())
        self._stop = stop_rule(stop, stop_below)
        self._model: CausalLM | None = None
        self._cache: PagedCache | None = None

    @abstractmethod
    def part(self, target: CausalLM) -> CausalLM:
        """The part of the target that drafts, sharing its weights, over the same pool.

        Raises:
            ConfigError, UnsupportedModelError: if the target has no such part.
        """

    @property
    def ranks(self) -> bool:
        """See `Drafter.ranks`."""
        return self.dynamic

    def bind(self, target: TargetHandle) -> Needs:
        """Takes its part."""
        self._model = self.part(target.model)
        return Needs(whole_prefix=True)

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        self._cache = cache

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Grows every request's tree on the target's cache."""
        if self._cache is None or self._model is None:
            raise ConfigError(f"The {self.name} drafter was used before attach(); pass it to a SpeculativeGenerator.")
        trees = [
            start_tree(
                self.dynamic,
                request,
                request.shape or self.shape.truncated(request.max_depth),
                self._cache.slots(request.request_id),
                self._cache.length(request.request_id),
                request.tokens[-1:],
                stop=self._stop,
            )
            for request in requests
        ]
        return grow_trees(trees, self._model, self._cache.target)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Tells the stop rule, if there is one, what came of its drafts."""
        if self._stop is not None:
            for outcome in outcomes:
                self._stop.observe(outcome, outcome.drafter == self.name)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """See `Drafter.end`."""
        if self._stop is not None:
            self._stop.end(request_id)
