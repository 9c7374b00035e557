"""Who computes logits: what the engine asks of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from specdec.cache import KVLayout, PagedCache
from specdec.kernels.rows import RowMaxima
from specdec.models.batch import RaggedBatch


class CausalLM(Protocol):
    """A model that runs a ragged batch over a paged cache."""

    @property
    def name(self) -> str:
        """What to call the model in messages and reports."""

    @property
    def vocab_size(self) -> int:
        """Number of logits per row."""

    @property
    def max_context(self) -> int:
        """Largest number of tokens in a sequence."""

    @property
    def kv_layout(self) -> KVLayout:
        """What one token costs in the cache."""

    @property
    def judges_on_device(self) -> bool:
        """Whether verdicts are to be found by GPU kernels, where the logits are."""

    def forward(self, batch: RaggedBatch, cache: PagedCache) -> Tensor:
        """Runs the batch, writes its keys and values into the cache, returns logits, float32 [R, vocab_size]."""

    def argmax(self, batch: RaggedBatch, cache: PagedCache) -> RowMaxima:
        """As `forward`, where the largest logit of each row is all that is wanted: the others are not stored."""

    def truncated(self, num_layers: int) -> CausalLM:
        """The same weights with only the first `num_layers` layers, then the final norm and head.

        Raises:
            UnsupportedModelError: if the model's layers cannot be told apart from the rest.
        """
