"""Who computes logits: what the engine asks of a model, and what a pass gives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.errors import ConfigError
from specdec.kernels.rows import RowMaxima, largest, log_sums_exp
from specdec.models.batch import RaggedBatch

MOST_TOP = 64
"""Largest logits of a row that a pass can be asked for."""


@dataclass(frozen=True)
class Wants:
    """What a pass is asked for, besides the keys and values that it writes.

    Layers are counted as transformers counts its `hidden_states`: boundary l < L is the residual stream before layer l
    (0: the embeddings), boundary L, after the last of L layers, is what the head reads: the final norm of the stream.

    Args:
        logits: of the batch's `logit_rows` all logits, or the largest of each row alone.
        hidden: boundaries whose hidden states are wanted, of every row that runs; increasing.
        top: how many of each row's largest logits must be told apart afterwards (`PassOutput.top`), at most `MOST_TOP`.
            They need no logits that are kept.
    """

    logits: Literal["argmax", "all"] = "all"
    hidden: tuple[int, ...] = ()
    top: int = 0

    def check(self, name: str, num_layers: int) -> None:
        """Raises ConfigError unless `hidden` are increasing boundaries of the model `name`, 0 to `num_layers`, and
        `top` is 0 to `MOST_TOP`."""
        if any(not a < b for a, b in pairwise((-1, *self.hidden, num_layers + 1))):
            raise ConfigError(
                f"hidden={self.hidden} are no layer boundaries of {name}: give increasing numbers from 0 (the "
                f"embeddings) to {num_layers} (the final norm)."
            )
        if not 0 <= self.top <= MOST_TOP:
            raise ConfigError(f"top={self.top} logits of a row cannot be asked for. Give 0 to {MOST_TOP}.")


class PassOutput:
    """What a pass gives.

    Args:
        logits: float32 [R, V], one row for each of the batch's `logit_rows`; None if their maxima are all there is.
        maxima: each row's first largest logit; found in `logits` if left out.
        hidden: float32 [T, k, H], every row's hidden state at the k boundaries asked for, in their order; None if none
            were.
        tops: int32 [R, k] on the CPU, ids of each row's k largest logits, largest first and of equals the lowest id
            first; found in `logits` if left out.
        chances: float32 [R, k] on the CPU, the softmax at `tops`; likewise.
        first: whether the pass took longer than others of its shape will, since it was captured first.
    """

    def __init__(
        self,
        logits: Tensor | None,
        maxima: RowMaxima | None = None,
        hidden: Tensor | None = None,
        tops: Tensor | None = None,
        chances: Tensor | None = None,
        first: bool = False,
    ) -> None:
        assert logits is not None or maxima is not None
        self.first = first
        self.logits, self.hidden, self._maxima, self._tops, self._chances = logits, hidden, maxima, tops, chances

    def __len__(self) -> int:
        """Rows of logits."""
        return len(self.logits) if self.logits is not None else len(self.maxima.tokens)

    @cached_property
    def maxima(self) -> RowMaxima:
        """Of every row of logits its first largest value. Where the logits are on a GPU the host waits for it."""
        if self._maxima is not None:
            return self._maxima
        assert self.logits is not None
        return RowMaxima.of(self.logits)

    def top(self, count: int) -> Tensor:
        """Ids of each row's `count` largest logits, int32 [R, min(count, V)] on the CPU: largest first, of equals the
        lowest id first; a NaN counts as the largest. No more than were wanted of the pass. Where the logits are on a
        GPU the host waits for them."""
        if self._tops is not None:
            return self._tops[:, :count]
        assert self.logits is not None
        return largest(self.logits, count)

    def chances(self, count: int) -> Tensor:
        """The softmax of each row at its `count` largest logits, float32 [R, min(count, V)] on the CPU, in the order of
        `top`."""
        if self._chances is not None:
            return self._chances[:, :count]
        assert self.logits is not None
        largest = self.logits.gather(1, self.top(count).to(self.logits.device, torch.int64))
        return (largest - log_sums_exp(self.logits)[:, None]).exp().clamp(max=1.0).float().cpu()

    def last(self, count: int) -> PassOutput:
        """The last `count` rows of logits alone."""
        if count == len(self):
            return self
        logits = None if self.logits is None else self.logits[-count:]
        maxima = self._maxima and RowMaxima(self._maxima.tokens[-count:], self._maxima.values[-count:])
        tops, chances = (None if each is None else each[-count:] for each in (self._tops, self._chances))
        return PassOutput(logits, maxima, tops=tops, chances=chances)

    def split(self, logit_rows: Sequence[int], rows: Sequence[int]) -> list[PassOutput]:
        """One output per sequence.

        Args:
            logit_rows: how many rows of logits each has, in order.
            rows: how many rows of the pass.
        """
        count = len(rows)
        if count == 1:  # all of it
            return [self]
        logits, tops = _split(self.logits, logit_rows), _split(self._tops, logit_rows)
        maxima = [None] * count if self._maxima is None else self._maxima.split(logit_rows)
        hidden, chances = _split(self.hidden, rows), _split(self._chances, logit_rows)
        parts = zip(logits, maxima, hidden, tops, chances, strict=True)
        return [PassOutput(*each, first=self.first) for each in parts]


def _split(rows: Tensor | None, counts: Sequence[int]) -> Sequence[Tensor | None]:
    return [None] * len(counts) if rows is None else torch.split(rows, list(counts))


class CausalLM(Protocol):
    """A model that runs a ragged batch over a pool of keys and values."""

    @property
    def name(self) -> str:
        """What to call the model in messages and reports."""

    @property
    def vocab_size(self) -> int:
        """Number of logits per row."""

    @property
    def hidden_size(self) -> int:
        """Width H of the residual stream."""

    @property
    def max_context(self) -> int:
        """Largest number of tokens in a sequence."""

    @property
    def kv_layout(self) -> KVLayout:
        """What one token costs in the cache."""

    @property
    def judges_on_device(self) -> bool:
        """Whether verdicts are to be found by GPU kernels, where the logits are."""

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:
        """Runs the batch and writes its keys and values to their slots in `pool`.

        Args:
            batch: its tables may be on the host, wherever the model is.
            pool: of the model's layout.
            wants: what is told.

        Raises:
            ConfigError: if hidden states are wanted at a boundary that the model does not have.
            UnsupportedModelError: if it cannot tell them at all.
        """

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings of token ids, float32 [n, hidden_size], on the model's device.

        They are the stream at boundary 0, unless the model adds positions to it or scales it outside of its embedding.
        """

    def unembed(self, tokens: Sequence[int]) -> Tensor:
        """Rows of the head, float32 [n, hidden_size], on the model's device: a token's logit is the product of its row
        with the final norm of the stream, unless the model scales or bends its logits afterwards.

        Raises:
            UnsupportedModelError: if the model has no such rows.
        """

    def truncated(self, num_layers: int) -> CausalLM:
        """The same weights with only the first `num_layers` layers, then the final norm and head.

        Raises:
            UnsupportedModelError: if the model's layers cannot be told apart from the rest.
        """

    def without(self, attention: Collection[int], mlp: Collection[int]) -> CausalLM:
        """The same weights without the attention of some layers and the feed-forward part of some: what is left out
        adds nothing to the stream, and writes nothing to the pool, which stays the same.

        Args:
            attention, mlp: layers, counted from 0, whose sublayer is left out.

        Raises:
            UnsupportedModelError: if a layer is not there, nothing or everything is left out, or the model's sublayers
                cannot be told apart.
        """
