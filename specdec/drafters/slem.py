"""String-level exact match: a draft model with any tokenizer writes a text, which becomes a draft by the target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from specdec.cache import PagedCache, Pool
from specdec.drafters.base import Drafter, DraftRequest, Needs, TargetHandle
from specdec.drafters.draft_model import DraftSource
from specdec.drafters.realign import Realign
from specdec.drafters.retold_model import RetoldModel
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.sampling import LogitsTransform, SamplingParams
from specdec.typed import TypedPath
from specdec.verify.greedy import GreedyRule
from specdec.verify.tree import DraftTree

GREEDY = GreedyRule()


class SlemDrafter(Drafter):
    """Drafts with the text of a causal LM (Timor et al. 2025, arXiv 2502.05202, string-level exact match).

    The draft model reads the committed text as its own tokenizer writes it, and goes on greedily. Its text is encoded
    by the target's tokenizer and drafted as a chain, of which the target keeps what it would have said itself. No token
    need be common to both, and a draft needs no q.

    The text is greedy at any temperature. So a draft is a function of the committed tokens alone, its q is one-hot, and
    every rule for deterministic drafts accepts x with probability p(x). A text that was sampled with noise of its own
    would be kept with probability Σ p·q, which is no more than p of the likeliest token.

    Args:
        draft: a model, or where to load one from: hub id, folder or GGUF file.
        num_draft_tokens: γ, length of the chain; the draft model writes as many tokens of its own.
        load_options: passed to `specdec.models.loading.load` if `draft` is a path.
        draft_tokenizer: the draft model's; None for the one that is loaded with it.
    """

    name = "slem"

    def __init__(
        self,
        draft: TypedPath | CausalLM | None = None,
        num_draft_tokens: int = 5,
        load_options: dict[str, Any] | None = None,
        draft_tokenizer: Any = None,
    ) -> None:
        super().__init__(num_draft_tokens)
        self._source = DraftSource(self.name, draft, load_options, draft_tokenizer)
        self._model: RetoldModel | None = None

    def bind(self, target: TargetHandle) -> Needs:
        """Loads the draft model.

        Raises:
            ConfigError: if a tokenizer is missing.
        """
        self._model = model = RetoldModel(self._source, target)
        self._realign = Realign(model.target, target.model.vocab_size)
        self._greedy = LogitsTransform(SamplingParams(), (), model.model.vocab_size)
        return Needs()

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """The draft model gets a cache with as many slots as the target's."""
        self._bound().make_cache(cache.num_blocks * cache.block_size, len(self.shape))

    def memory(self) -> int:
        """Of the draft model's cache."""
        return self._bound().memory()

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Writes on every request's text, and drafts that."""
        drafts = [
            self._realign.draft(request.tokens, text, min(self.num_draft_tokens, request.max_depth))
            for request, text in zip(requests, self._texts(requests), strict=True)
        ]
        return [DraftTree.chain(tokens) for tokens in drafts]

    def forget(self, request_id: int) -> None:
        """Lets go of the request."""
        self._bound().forget(request_id)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Lets go of the request."""
        self._bound().forget(request_id)

    def _texts(self, requests: Sequence[DraftRequest]) -> list[bytes]:
        """What the draft model says next to each request, up to a special token."""
        model = self._bound()
        own = [replace(request, rule=GREEDY, transform=self._greedy, shape=None) for request in requests]
        chains = model.grow(own, [self.shape.truncated(request.max_depth) for request in own], None)
        said = [[] if chain is None else takewhile(model.draft.pieces.__contains__, chain.tokens) for chain in chains]
        return [model.draft.spell(tokens) for tokens in said]

    def _bound(self) -> RetoldModel:
        if self._model is None:
            raise ConfigError("The slem drafter was used before bind(); pass it to a SpeculativeGenerator.")
        return self._model
