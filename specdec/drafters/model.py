"""An independent, smaller language model drafts, with a paged cache of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specdec.cache.paged import PagedCache
from specdec.drafters.base import Drafter, DraftRequest, TargetHandle
from specdec.drafters.growth import GrowingTree, grow_trees
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.sources import vocab_size_of
from specdec.verify.tree import DraftTree


class ModelDrafter(Drafter):
    """Drafts with another causal LM over the same vocabulary (Leviathan et al. 2023; Chen et al. 2023).

    Its cache keeps what the target accepted and forgets the rest; in the next step it runs only the tokens that it has
    not seen (usually one or two) before it drafts on.

    Args:
        draft: a model, or where to load one from: hub id, folder or GGUF file.
        num_draft_tokens: γ, length of a branch.
        branches: candidates for the first drafted token, each continued as a chain.
        load_options: passed to `specdec.models.loading.load` if `draft` is a path.
    """

    name = "model"
    deterministic = False

    def __init__(
        self,
        draft: str | CausalLM | None = None,
        num_draft_tokens: int = 4,
        branches: int = 1,
        load_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_draft_tokens, branches)
        if draft is None:
            raise ConfigError("The model drafter needs draft=<hub id, folder, GGUF file or model>.")
        self._draft, self._load_options = draft, load_options or {}
        self._model: CausalLM | None = None
        self._cache: PagedCache | None = None
        self._max_batch_tokens = 512
        self._run_rows: dict[int, tuple[int, int]] = {}
        """Request → how many tail rows and how many nodes the last proposal has run."""

    def bind(self, target: TargetHandle) -> None:
        """Loads the draft model and gives it a cache of as many tokens as the target's.

        Raises:
            ConfigError: if the two vocabularies differ.
        """
        model, tokenizer = self._load()
        self._model = model
        if model.vocab_size != target.model.vocab_size:
            raise ConfigError(
                f"Draft {model.name} has {model.vocab_size} tokens, target {target.model.name} has "
                f"{target.model.vocab_size}. Choose a draft with the target's tokenizer, or drafter='ngram'."
            )
        if (
            tokenizer is not None
            and target.tokenizer is not None
            and tokenizer.get_vocab() != target.tokenizer.get_vocab()
        ):
            raise ConfigError(
                f"Draft {model.name} and target {target.model.name} give different ids to the same tokens. "
                "Choose a draft with the target's tokenizer, or drafter='ngram'."
            )
        self._cache = PagedCache(model.kv_layout, target.cache.num_blocks, target.cache.block_size)
        self._max_batch_tokens = target.max_batch_tokens
        self._device = model.kv_layout.device

    def vocab_size(self) -> int | None:
        """Of the draft model, if its files are here."""
        return vocab_size_of(self._draft) if isinstance(self._draft, str) else self._draft.vocab_size

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Catches up with every request, then grows their trees together."""
        model, cache = self._bound()
        growing: dict[int, GrowingTree] = {}
        for index, request in enumerate(requests):
            depth = min(self.num_draft_tokens, request.num_draft_tokens)
            if len(request.tokens) + depth <= model.max_context:
                growing[index] = self._start(model, cache, request, depth)
        grown = dict(zip(growing, grow_trees(list(growing.values()), model, cache, self.branches), strict=True))
        for tree in growing.values():
            self._run_rows[tree.request.request_id] = (len(tree.tail), tree.level_start)
        return [grown.get(index, DraftTree()) for index in range(len(requests))]

    def observe(self, request_id: int, tree: DraftTree, path: Sequence[int]) -> None:
        """Keeps the cache rows of the tail and of the accepted nodes that were run; forgets the others."""
        _, cache = self._bound()
        if request_id in self._run_rows:
            tail, num_run = self._run_rows.pop(request_id)
            cache.commit_path(request_id, [*range(tail), *(tail + node for node in path if node < num_run)])

    def release(self, request_id: int) -> None:
        """Frees the request's part of the draft cache."""
        self._run_rows.pop(request_id, None)
        if self._cache is not None and request_id in self._cache:
            self._cache.free(request_id)

    def _start(self, model: CausalLM, cache: PagedCache, request: DraftRequest, depth: int) -> GrowingTree:
        """Reserves the rows of one draft. Of a long text that was never seen, all but the last chunk is run here."""
        seq, tokens = request.request_id, request.tokens
        if seq not in cache:
            cache.add(seq)
        while len(tokens) - cache.length(seq) > self._max_batch_tokens:
            committed = cache.length(seq)
            cache.reserve(seq, self._max_batch_tokens)
            chunk = tokens[committed : committed + self._max_batch_tokens]
            model.run(RaggedBatch.build([SequenceRows(chunk, cache.slots(seq), committed)], self._device), cache.target)
            cache.commit(seq, len(chunk))
        committed = cache.length(seq)
        cache.reserve(seq, len(tokens) - committed + self.max_nodes(depth))
        return GrowingTree(request, tokens[committed:], committed, depth)

    def _load(self) -> tuple[CausalLM, Any]:
        if not isinstance(self._draft, str):
            return self._draft, None
        from specdec.models.loading import load

        loaded = load(self._draft, **self._load_options)
        return loaded.model, loaded.tokenizer

    def _bound(self) -> tuple[CausalLM, PagedCache]:
        if self._model is None or self._cache is None:
            raise ConfigError("The model drafter was used before bind(); pass it to a SpeculativeGenerator.")
        return self._model, self._cache
