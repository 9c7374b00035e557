"""Token-level intersection: a draft model with another tokenizer, held to the tokens that both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specdec.cache import PagedCache, Pool
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.draft_model import DraftSource
from specdec.drafters.growth import TokenMap
from specdec.drafters.retold_model import RetoldModel
from specdec.drafters.stopping import stop_rule
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.typed import TypedPath
from specdec.verify.tree import DraftTree


class TliDrafter(Drafter):
    """Drafts with a causal LM over another vocabulary (Timor et al. 2025, arXiv 2502.05202, token-level intersection).

    q'(x) = q(x) / q(V_t ∩ V_d) for the tokens that target and draft both have, by what they spell, and 0 for the
    others. It is a distribution over the target's tokens like any other, so the ordinary rules judge it, and accept
    with probability Σ min(p, q'). A request's transform goes before the softmax, as it does for p.

    The draft model reads the committed text as its own tokenizer writes it, and then the draft, token by token.

    Args:
        draft: a model, or where to load one from: hub id, folder or GGUF file.
        num_draft_tokens: γ, length of a branch.
        branches: candidates for the first drafted token, each continued as a chain.
        load_options: passed to `specdec.models.loading.load` if `draft` is a path.
        choices: the tree by the ranks of its branches, in place of γ and branches (see `TreeShape.choices`).
        draft_tokenizer: the draft model's; None for the one that is loaded with it.
        stop, stop_below: ends branches early; see `specdec.drafters.stopping`.
    """

    name = "tli"
    deterministic = False

    def __init__(
        self,
        draft: TypedPath | CausalLM | None = None,
        num_draft_tokens: int = 4,
        branches: int = 1,
        load_options: dict[str, Any] | None = None,
        choices: Sequence[Sequence[int]] | None = None,
        draft_tokenizer: Any = None,
        stop: str | None = None,
        stop_below: float | None = None,
    ) -> None:
        super().__init__(num_draft_tokens, branches, self.chosen(choices))
        self._stop = stop_rule(stop, stop_below)
        self._source = DraftSource(self.name, draft, load_options, draft_tokenizer)
        self._model: RetoldModel | None = None
        self._known = TokenMap({})

    def bind(self, target: TargetHandle) -> Needs:
        """Loads the draft model, and finds the tokens that both have.

        Raises:
            ConfigError: if there are none, or a tokenizer is missing.
        """
        self._model = model = RetoldModel(self._source, target)
        if not model.pairs:
            raise ConfigError(
                f"Draft {model.model.name} and target {target.model.name} have no token in common. Use drafter='slem', "
                "which compares texts."
            )
        self._known = TokenMap(model.pairs, model.model.kv_layout.device)
        return Needs()

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """The draft model gets a cache with as many slots as the target's."""
        self._bound().make_cache(cache.num_blocks * cache.block_size, len(self.shape))

    def memory(self) -> int:
        """Of the draft model's cache."""
        return self._bound().memory()

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Grows every request's tree over the tokens that both have."""
        shapes = [request.shape or self.shape.truncated(request.max_depth) for request in requests]
        trees = self._bound().grow(requests, shapes, self._known, self._stop)
        return [DraftTree() if tree is None else tree.tree() for tree in trees]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """The rule that ends branches learns from verdicts."""
        if self._stop is not None:
            for outcome in outcomes:
                self._stop.observe(outcome, outcome.drafter == self.name)

    def forget(self, request_id: int) -> None:
        """Lets go of the request."""
        self._bound().forget(request_id)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Lets go of the request."""
        self._bound().forget(request_id)
        if self._stop is not None:
            self._stop.end(request_id)

    def _bound(self) -> RetoldModel:
        if self._model is None:
            raise ConfigError("The tli drafter was used before bind(); pass it to a SpeculativeGenerator.")
        return self._model
