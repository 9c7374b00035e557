"""Models that are fed with states beside their tokens, on the CPU's kernels (kernels/passes)."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import pointer
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import PackedLinear, pack
from specdec.kernels.markov import Grown
from specdec.models.base import PassOutput
from specdec.models.batch import SequenceRows
from specdec.models.chains import ChainDraw, DrawnChain, draw_chains
from specdec.models.llama import LlamaWeights
from specdec.models.native import BEST, NativeModel
from specdec.models.rows import PassRows
from specdec.randomness import Stream
from specdec.sampling.noise import Noise


@dataclass(frozen=True, eq=False)
class PairInput:
    """What a model reads that is fed with states: a token's embedding, and beside it a state.

    Args:
        token_norm, state_norm: float32 [hidden], what each is normed with; None for no norm.
        mix, mix_bias: [hidden, 2 · hidden] and [hidden] or None: makes the stream of both. None: the stream is the
            state, and the first layer's qkv reads both.
        starts_normed: the stream is the normed state.
        gives_normed: the next state is the normed stream.
        bare: neither the first layer's input nor the last stream is normed.
    """

    token_norm: Tensor | None
    state_norm: Tensor | None
    mix: Tensor | None = None
    mix_bias: Tensor | None = None
    starts_normed: bool = False
    gives_normed: bool = False
    bare: bool = False

    def packed(self, kind: str) -> PackedPairs:
        """For the kernels, with weights of a kind of `specdec.kernels.linear.KINDS`."""
        mix = None if self.mix is None else pack(self.mix, kind, self.mix_bias)
        norms = [native.address(norm, torch.float32) for norm in (self.token_norm, self.state_norm)]
        flags = (self.starts_normed, self.gives_normed, self.bare)
        struct = interface.Pairs(*norms, interface.Linear() if mix is None else mix.struct, *flags)
        return PackedPairs(struct, mix, self)


@dataclass(frozen=True, eq=False)
class PackedPairs:
    """See `PairInput`; `struct` is what the C interface takes, and points into the rest."""

    struct: interface.Pairs
    mix: PackedLinear | None
    source: PairInput


@dataclass(frozen=True)
class TreeLimits:
    """What a tree may become.

    Args:
        nodes, depth: most nodes, and most of them on a branch.
        width: candidates of a node, and nodes of a level that are run.
        floor: least value of a node, the product of the chances from the root down to it.
        deepen: least sum of the values of a level that is run.
        noise: under which the target draws; None: it takes the largest logit.
    """

    nodes: int
    depth: int
    width: int
    floor: float
    deepen: float
    noise: Noise | None = None

    def draws(self) -> interface.PairDraws:
        """How the target draws, for the C interface."""
        if self.noise is None:
            return interface.PairDraws(interface.Noise(), 1.0)
        params, random, position = self.noise
        noise = interface.Noise(params.temperature, random.seed, position, int(Stream.GUMBEL))
        return interface.PairDraws(noise, params.top_p, params.min_p, params.top_k)


class PairModel(NativeModel):
    """A model that reads a state beside each token, and gives the states that the next step reads.

    Args:
        weights, name, kind: see `NativeModel.of`.
        pairs: how it reads them.
    """

    def __init__(self, weights: LlamaWeights, name: str, kind: str, pairs: PairInput) -> None:
        self._take(weights, name, kind, None, None)
        self._pairs = pairs.packed(kind)
        self._struct.pairs = pointer(self._pairs.struct)

    def run_pairs(
        self, parts: Sequence[SequenceRows], pool: KVPool, states: Tensor, top: int
    ) -> tuple[PassOutput, Tensor]:
        """A pass.

        Args:
            parts: the sequences' rows.
            pool: of its keys and values.
            states: float32 [T, H], one for each row.
            top: how many of the largest logits are told, with their chances.

        Returns:
            Of the `logit_rows` the logits, and the next states, float32 [R, H].
        """
        count = sum(len(part.logit_rows) for part in parts)
        given, kept = torch.empty(count, self.hidden_size), min(max(top, 1), self.vocab_size)
        logits, best = torch.empty(count, self.vocab_size), np.empty((count, kept), BEST)
        chances = torch.empty(count, kept)
        rows = self._rows(parts, states, next_states=given, chances=chances, kept=kept)
        self._kernels.forward(self._bound_to(pool), rows.struct, logits.data_ptr(), best.ctypes.data, num_threads())
        tops = torch.from_numpy(best["token"].astype(np.int32))
        return PassOutput(logits, tops=tops, chances=chances), given

    def grow_pairs(
        self, parts: Sequence[SequenceRows], pool: KVPool, states: Tensor, limits: Sequence[TreeLimits], ids: Tensor
    ) -> list[Grown | None]:
        """The likeliest trees behind the last rows of some sequences: a pass for each level, all of them in one call
        (kernels/passes/pairs.h).

        Args:
            parts, pool, states: see `run_pairs`; of each part the last row alone has logits, and its slots have room
                for a tree.
            limits: of each tree; width and deepen are those of the first, and the floor is the lowest of all.
            ids: int64 [V], the target's tokens that it knows.

        Returns:
            Of each tree the nodes, in the target's tokens; None if a score was no number.
        """
        rows = self._rows(parts, states, room=[each.nodes for each in limits])
        shape = len(parts), max(each.nodes for each in limits)
        tokens, parents = np.empty(shape, np.int32), np.empty(shape, np.int32)
        chances, sizes = np.empty(shape, np.float64), np.empty(len(parts), np.int64)
        asked = np.array([[each.nodes for each in limits], [each.depth for each in limits]], np.int64)
        draws = (interface.PairDraws * len(limits))(*(each.draws() for each in limits))
        width, floor, deepen = limits[0].width, min(each.floor for each in limits), limits[0].deepen
        trees = interface.PairTrees(
            shape[1], min(width, self.vocab_size), floor, deepen, *(each.ctypes.data for each in asked),
            native.address(ids, torch.int64, (self.vocab_size,)), draws,
            *(each.ctypes.data for each in (tokens, parents, chances, sizes)),
        )  # fmt: skip
        self._kernels.pairs_grow(self._bound_to(pool), rows.struct, trees, num_threads())
        return [
            None if size < 0 else Grown(*(each[index, :size].tolist() for each in (tokens, parents, chances)))
            for index, size in enumerate(sizes.tolist())
        ]

    def draw_pairs(
        self,
        parts: Sequence[SequenceRows],
        pool: KVPool,
        states: Tensor,
        draws: Sequence[ChainDraw],
        ids: Tensor,
        target_size: int,
    ) -> list[DrawnChain | None]:
        """Chains behind the last rows of some sequences, drawn token by token, all levels in one call.

        Args:
            parts, pool, states, ids: see `grow_pairs`.
            draws: of each chain.
            target_size: V, tokens of the target.

        Returns:
            The chains; None if a score was no number.
        """
        rows = self._rows(parts, states, room=[each.depth for each in draws])
        return draw_chains(self._kernels, self._bound_to(pool), rows, draws, target_size, ids)

    def _rows(self, parts: Sequence[SequenceRows], states: Tensor, **more: Any) -> PassRows:
        """For the kernels, which cannot see how many states there are."""
        native.address(states, torch.float32, (sum(len(part.tokens) for part in parts), self.hidden_size))
        return PassRows(parts, states, **more)
