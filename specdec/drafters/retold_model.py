"""A draft model with another tokenizer than the target's: it reads the committed texts in tokens of its own."""

from __future__ import annotations

from collections.abc import Container, Sequence

from specdec.drafters.base import DraftRequest, TargetHandle
from specdec.drafters.draft_model import DraftSource
from specdec.drafters.growing import grow_trees, read_ahead
from specdec.drafters.growth import GrowingTree, TokenMap
from specdec.drafters.own_cache import OwnCache
from specdec.drafters.retelling import Retelling
from specdec.drafters.stopping import Stop
from specdec.errors import ConfigError, OutOfBlocksError
from specdec.models.spelling import Spelling, shared
from specdec.verify.tree import TreeShape


class RetoldModel:
    """Runs a draft model on the requests' texts as its own tokenizer would write them.

    Args:
        source: of the draft model.
        target: the target and its tokenizer.

    Raises:
        ConfigError: if a tokenizer is missing, or cannot tell what its tokens spell.
    """

    def __init__(self, source: DraftSource, target: TargetHandle) -> None:
        self.model, tokenizer = source.load()
        if target.tokenizer is None or tokenizer is None:
            raise ConfigError(
                f"The {source.name} drafter needs the tokenizers of both models. Give the engine the target's, and "
                "draft_tokenizer=<the draft's> beside a draft that is a model."
            )
        self.target, self.draft = Spelling(target.tokenizer), Spelling(tokenizer)
        self.pairs = shared(self.target, self.draft, (target.model.vocab_size, self.model.vocab_size))
        """Tokens that both have: the target's id → the draft's."""
        self._max_batch_tokens = target.max_batch_tokens
        self._retelling = Retelling(self.target, self.draft, self.pairs)
        self._cache: OwnCache | None = None

    def make_cache(self, num_slots: int, most_nodes: int) -> None:
        """Makes room for texts and drafts; see `OwnCache`."""
        self._cache = OwnCache(self.model, num_slots, most_nodes)

    def memory(self) -> int:
        """Bytes of the keys and values that there is room for."""
        return self._made_cache.memory()

    def grow(
        self,
        requests: Sequence[DraftRequest],
        shapes: Sequence[TreeShape],
        known: TokenMap | None = None,
        stop: Stop | None = None,
    ) -> list[GrowingTree | None]:
        """Grows a tree after the text of each request.

        Args:
            requests: their tokens are the target's.
            shapes: of their trees.
            known: the tokens that both have, for trees of the target's tokens; None for trees of the draft's own, whose
                requests have a transform over these.
            stop: ends branches early.

        Returns:
            The grown trees; None for a text that is too long, or has an end that the draft model cannot read yet.
        """
        grown: list[GrowingTree | None] = []
        while len(grown) < len(requests):
            done = len(grown)
            grown += self._grow_together(requests[done:], shapes[done:], known, stop)
        return grown

    def forget(self, request_id: int) -> None:
        """Lets go of a request. Unknown ids are ignored."""
        self._retelling.forget(request_id)
        self._made_cache.drop(request_id)

    def _grow_together(
        self,
        requests: Sequence[DraftRequest],
        shapes: Sequence[TreeShape],
        known: TokenMap | None,
        stop: Stop | None,
    ) -> list[GrowingTree | None]:
        """Grows as many trees, from the first on, as there is room for at the same time."""
        begun: list[GrowingTree | None] = []
        texts: dict[int, list[int]] = {}
        for request, shape in zip(requests, shapes, strict=True):
            text = self._retelling.tell(request.request_id, request.tokens)
            if not text or len(text) + shape.depth > self.model.max_context:
                begun.append(None)
                continue
            try:
                tree = self._begin(request, shape, text, texts.keys())
            except OutOfBlocksError:
                if not texts:
                    raise
                break
            tree.known, tree.stop = known, stop
            begun.append(tree)
            texts[request.request_id] = text
        growing = [tree for tree in begun if tree is not None]
        grow_trees(growing, self.model, self._made_cache.pool)
        for grown in growing:
            self._note(grown, texts[grown.request.request_id])
        return begun

    def _begin(self, request: DraftRequest, shape: TreeShape, text: list[int], busy: Container[int]) -> GrowingTree:
        """A tree to grow. Of a text that is mostly new, all but the last chunk is run here."""
        cache = self._made_cache
        kept, slots = cache.begin(request.request_id, text, len(shape), busy)
        ahead = read_ahead(self.model, cache.pool, text[kept:], slots, kept, self._max_batch_tokens)
        return GrowingTree(request, shape, slots, kept + ahead, text[kept + ahead :])

    def _note(self, tree: GrowingTree, text: Sequence[int]) -> None:
        """What has been run need not be run again."""
        nodes = slice(tree.num_run)
        self._made_cache.ran(tree.request.request_id, text, tree.own_tokens[nodes], tree.parents[nodes])

    @property
    def _made_cache(self) -> OwnCache:
        if self._cache is None:
            raise ConfigError("A drafter was used before attach(); pass it to a SpeculativeGenerator.")
        return self._cache
