"""An independent, smaller language model drafts; its keys and values lie in a pool beside the target's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.cache import KVPool, PagedCache, Pool
from specdec.checks import flag, take
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.draft_model import DraftSource
from specdec.drafters.dynamic import start_tree
from specdec.drafters.growing import grow_trees, read_ahead
from specdec.drafters.growth import GrowingTree
from specdec.drafters.stopping import stop_rule
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.models.vocabulary import difference, tokens_of
from specdec.typed import TypedPath
from specdec.verify.tree import DraftTree, TreeShape


class ModelDrafter(Drafter):
    """Drafts with another causal LM over the same vocabulary (Leviathan et al. 2023; Chen et al. 2023).

    In every step it runs the committed tokens that it has not run yet (usually one or two) before it drafts on. What
    the target accepts stays where it is, since one block table serves both models.

    The two heads need not be of one width, since models are padded to sizes of their own. Of a token that the draft
    model has no row for, q is 0; rows beyond the target's are cut off before q is made; and where such a token stands
    in the text, the draft model reads another in its place. A draft is a function of the text either way.

    Args:
        draft: a model, or where to load one from: hub id, folder or GGUF file.
        num_draft_tokens: γ, length of a branch.
        branches: candidates for the first drafted token, each continued as a chain.
        load_options: passed to `specdec.models.loading.load` if `draft` is a path.
        choices: the tree by the ranks of its branches, in place of γ and branches (see `TreeShape.choices`).
        dynamic: keep of the candidates those that the drafting model is surest of, as many as the tree above has nodes
            (`drafters.dynamic`), where the text does not depend on the draft.
        stop, stop_below: rule that ends a branch early, "entropy" or "survival", and its bound (`drafters.stopping`).
    """

    name = "model"
    deterministic = False

    def __init__(
        self,
        draft: TypedPath | CausalLM | None = None,
        num_draft_tokens: int = 4,
        branches: int = 1,
        load_options: dict[str, Any] | None = None,
        choices: Sequence[Sequence[int]] | None = None,
        stop: str | None = None,
        stop_below: float | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(num_draft_tokens, branches, self.chosen(choices))
        self.dynamic: bool = take("dynamic", dynamic, flag())
        self._stop = stop_rule(stop, stop_below)
        self._source = DraftSource(self.name, draft, load_options)
        self._model: CausalLM | None = None
        self._cache: PagedCache | None = None
        self._pool: KVPool | None = None
        self._max_batch_tokens = 512
        self._num_run: dict[int, tuple[int, int]] = {}
        """Request → committed tokens, and nodes, that the draft model has run for the last proposal."""

    @property
    def ranks(self) -> bool:
        """See `Drafter.ranks`."""
        return self.dynamic

    def bind(self, target: TargetHandle) -> Needs:
        """Loads the draft model; asks for a pool of its keys and values.

        Raises:
            ConfigError: if a token that both have has two ids. Without both tokenizers they are taken to agree.
        """
        model, tokenizer = self._source.load()
        self._model, self._max_batch_tokens = model, target.max_batch_tokens
        if tokenizer is not None and target.tokenizer is not None:
            reason = difference(target.tokenizer.get_vocab(), tokenizer.get_vocab())
            if reason is not None:
                raise ConfigError(
                    f"Draft {model.name} and target {target.model.name} {reason}. Choose a draft with the target's "
                    "tokenizer, or drafter='tli' or 'slem' for one with another."
                )
        return Needs(pools=(model.kv_layout,))

    def attach(self, cache: PagedCache, pools: Sequence[Pool]) -> None:
        """See `Drafter.attach`."""
        [pool] = pools
        assert isinstance(pool, KVPool)  # its layout is a model's
        self._cache, self._pool = cache, pool

    def vocabulary(self) -> Mapping[str, int] | None:
        """Of the draft model, if its files are here."""
        return tokens_of(self._source.path) if self._source.path is not None else None

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Catches up with every request, then grows their trees together."""
        model, _, pool = self._attached()
        growing: dict[int, GrowingTree] = {}
        for index, request in enumerate(requests):
            shape = request.shape or self.shape.truncated(request.max_depth)
            if len(request.tokens) + shape.depth <= model.max_context:
                growing[index] = self._start(request, shape)
        trees = dict(zip(growing, grow_trees(list(growing.values()), model, pool), strict=True))
        for index, tree in growing.items():
            self._num_run[tree.request.request_id] = len(requests[index].tokens), tree.num_run
        return [trees.get(index, DraftTree()) for index in range(len(requests))]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps the entries of the committed tokens and of the accepted nodes that were run."""
        _, cache, pool = self._attached()
        for outcome in outcomes:
            committed, nodes = self._num_run.pop(outcome.request_id, (0, 0))
            if committed:
                accepted = sum(node < nodes for node in outcome.path) if outcome.drafter == self.name else 0
                cache.fill(outcome.request_id, pool, committed + accepted)
            if self._stop is not None:
                self._stop.observe(outcome, outcome.drafter == self.name)

    def forget(self, request_id: int) -> None:
        """Its entries are gone with its blocks."""
        self._num_run.pop(request_id, None)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """See `forget`."""
        self._num_run.pop(request_id, None)
        if self._stop is not None:
            self._stop.end(request_id)

    def _start(self, request: DraftRequest, shape: TreeShape) -> GrowingTree:
        """A tree to grow. Of a long text that was never seen, all but the last chunk is run here."""
        model, cache, pool = self._attached()
        seq, committed = request.request_id, cache.filled(request.request_id, pool)
        tail, slots = self._known(request.tokens[committed:]), cache.slots(seq)
        ahead = read_ahead(model, pool, tail, slots, committed, self._max_batch_tokens)
        place = slots, committed + ahead, tail[ahead:]
        return start_tree(self.dynamic, request, shape, *place, stop=self._stop)

    def _known(self, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens as the draft model reads them: those that it has no row for become its first."""
        model, _, _ = self._attached()
        size = model.vocab_size
        return tokens if max(tokens) < size else [token if token < size else 0 for token in tokens]

    def _attached(self) -> tuple[CausalLM, PagedCache, KVPool]:
        if self._model is None or self._cache is None or self._pool is None:
            raise ConfigError("The model drafter was used before attach(); pass it to a SpeculativeGenerator.")
        return self._model, self._cache, self._pool
