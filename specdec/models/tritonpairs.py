"""Models that are fed with states beside their tokens, on the Triton kernels: the twin of `PairModel`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.errors import SpecdecError
from specdec.kernels.linear.triton_weights import stacked
from specdec.kernels.markov import Grown
from specdec.kernels.norm.triton import rms_norm
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.graphs import Graphs
from specdec.models.inputs import PackedPass, PassInputs, whole_splits
from specdec.models.llama import LlamaWeights
from specdec.models.pairs import PairInput, TreeLimits
from specdec.models.triton import MOST_CAPTURED_ROWS, TritonModel
from specdec.models.tritontrees import TreeInputs, read_trees


class TritonPairModel(TritonModel):
    """A model of one layer that reads a state beside each token, and gives the states that the next step reads.

    Args:
        weights, name, kind: see `TritonModel.of`.
        pairs: how it reads them; its tensors are on the device of the weights.
    """

    def __init__(self, weights: LlamaWeights, name: str, kind: str, pairs: PairInput) -> None:
        self._take(weights, name, kind)
        self._pairs = pairs
        self._mix = None if pairs.mix is None else stacked([pairs.mix], kind, [pairs.mix_bias])
        self._trees = Graphs[TreeInputs]()
        self._deepest = self._largest = 0

    @torch.inference_mode()
    def run_pairs(self, parts: Sequence[SequenceRows], pool: KVPool, states: Tensor) -> tuple[Tensor, Tensor]:
        """A pass; a short one is a captured graph, as those of the target are.

        Args:
            parts: the sequences' rows.
            pool: of its keys and values.
            states: float32 [T, H], dense, one for each row.

        Returns:
            Of the `logit_rows` the logits, float32 [R, V], and the next states, float32 [R, H].

        Raises:
            SpecdecError: if the states are not one for each row.
        """
        batch = self._checked(parts, states)
        given = self._outputs(batch, pool, Wants(), states)
        assert given.logits is not None
        assert given.hidden is not None
        return given.logits, given.hidden[: len(given.logits)]

    def _checked(self, parts: Sequence[SequenceRows], states: Tensor) -> RaggedBatch:
        """The rows, of which each has a state."""
        batch = RaggedBatch.build(parts)
        needed = (len(batch.token_ids), self.hidden_size)
        if states.shape != needed or states.dtype != torch.float32 or not states.is_contiguous():
            raise SpecdecError(
                f"{self.name} was given states {states.dtype} {list(states.shape)}; its rows need dense torch.float32 "
                f"{list(needed)}."
            )
        return batch

    @torch.inference_mode()
    def grow_pairs(
        self, parts: Sequence[SequenceRows], pool: KVPool, states: Tensor, limits: Sequence[TreeLimits], ids: Tensor
    ) -> list[Grown | None]:
        """The likeliest trees behind the last rows of some sequences: a pass for those rows, and all levels, as many as
        the deepest tree so far had, in one captured graph. The host waits once.

        Args:
            parts, pool, states: see `run_pairs`; of each part the last row alone has logits, and its slots have room
                for a tree.
            limits: of each tree; the width is that of the first.
            ids: int64 [V], the target's tokens that it knows, on the device.

        Returns:
            Of each tree the nodes, in the target's tokens; None if a score was no number.
        """
        batch = self._checked(parts, states)
        self._deepest = max(self._deepest, *(limit.depth for limit in limits))
        self._largest = max(self._largest, *(limit.nodes for limit in limits))
        split, tile = self._attention.split, self._attention.rows_per_tile(self._heads, self._kv_heads)
        device = self.kv_layout.device
        longest = max(part.committed + len(part.tokens) for part in parts) + self._deepest
        rows = PackedPass.of(batch, tile, device, split, states)
        given = TreeInputs.of(
            rows, parts, limits, tile, device, self._largest, self._deepest, whole_splits(longest, split)
        )

        def grow(given: TreeInputs) -> tuple[Tensor]:
            return (given.grow(ids, lambda rows: self._logits(rows, pool, ())),)

        short = len(states) <= MOST_CAPTURED_ROWS  # few batches of prompts are of one shape
        [found] = self._trees.replay(pool, given.shape, given, grow) if short else grow(given.on(device))
        assert found is not None
        return read_trees(found, given.texts, len(parts))

    def _logits(self, inputs: PassInputs, pool: KVPool, taps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Logits, and in place of hidden states the next states, of the rows with logits alone."""
        stream, read = self._read(inputs)
        delta = self._fed(0, stream, self._attended(0, read, inputs, pool))
        stream, delta = inputs.wanted(stream), inputs.wanted(delta)
        if self._pairs.bare:
            hidden = stream.add_(delta)
        else:
            hidden = rms_norm(stream, self._final_norm, self._eps, torch.float32, delta)
        logits = self._head(hidden.to(self._dtype), torch.float32, self._table)
        return logits, hidden if self._pairs.gives_normed else stream

    def _read(self, inputs: PassInputs) -> tuple[Tensor, Tensor]:
        """The stream before the layer, float32 [T, H], and what its attention reads, [T, 2 · H] or [T, H]."""
        states, pairs, eps = inputs.states, self._pairs, self._eps
        assert states is not None
        embedded = self.embed(inputs.tokens)
        both = torch.cat([self._side(embedded, pairs.token_norm), self._side(states, pairs.state_norm)], 1)
        if self._mix is not None:
            stream = self._mix(both, torch.float32, self._table)
            first = None if pairs.bare else self._layers[0].norms[0]
            return stream, self._side(stream, first)
        if pairs.starts_normed and pairs.state_norm is not None:
            return rms_norm(states, pairs.state_norm, eps, torch.float32), both
        return states.clone(), both  # norms add to a stream in place

    def _side(self, x: Tensor, norm: Tensor | None) -> Tensor:
        """float32 [T, H], normed if there is a norm, as products read it."""
        return x.to(self._dtype) if norm is None else rms_norm(x, norm, self._eps, self._dtype)
