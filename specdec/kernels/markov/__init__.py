"""Draft trees from one pass over a block: logits for every depth, and what the token before adds to them.

A block head gives one row of logits for each depth. The term W2 W1[token before] makes a row depend on the node that it
follows, without another pass (Markov term of DSpark, arXiv 2607.05147).
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import pack
from specdec.kernels.markov import reference
from specdec.kernels.markov.reference import Grown

__all__ = ["Grown", "MarkovTerm"]


class MarkovTerm:
    """What the token before a row adds to its logits and to its confidence.

    Args:
        vocab_size: Vd, of the draft vocabulary.
        before: W1, float [n, r]: first the rows of the Vd tokens, then those of tokens that only come before them. None
            if there is no term.
        after: W2, float [Vd, r].
        weights: float [r], what W1[token before] adds to a row's confidence; None for nothing.
        kind: form of W2 in native code, a name of `specdec.kernels.linear.KINDS`.
        kernels: the compiled library; None where it is not used: trees are grown in torch then.
    """

    def __init__(
        self,
        vocab_size: int,
        before: Tensor | None,
        after: Tensor | None,
        weights: Tensor | None = None,
        kind: str = "float32",
        kernels: native.Library | None = None,
    ) -> None:
        self.vocab_size, self._kernels = vocab_size, kernels
        self.before, self.after, self.weights = (
            None if each is None else each.detach().float().contiguous() for each in (before, after, weights)
        )
        self._packed = None if kernels is None or self.after is None else pack(self.after, kind)
        if kernels is not None:
            known, rank = (0, 0) if self.before is None else self.before.shape
            self._struct = interface.MarkovTerm(vocab_size, rank, known)
            self._struct.before, self._struct.confidence = map(native.address, (self.before, self.weights))
            if self._packed is not None:
                self._struct.after = self._packed.struct

    @property
    def num_bytes(self) -> int:
        """Bytes of W2 in native code, which a tree reads."""
        return 0 if self._packed is None else self._packed.num_bytes

    def corrected(self, row: Tensor, previous: int) -> Tensor:
        """A row of logits, float32 [Vd], with the term of the token before it (a row of W1)."""
        if self._packed is None or self.before is None:
            return reference.corrected(row, self.before, self.after, previous)
        return row + self._packed(self.before[previous], self._kernels)

    def grow(
        self,
        logits: Tensor,
        confidences: Tensor | None,
        rows: Sequence[int],
        anchors: Sequence[int],
        nodes: int,
        floor: float = 0.0,
    ) -> list[Grown]:
        """The likeliest tree of each of several blocks; see `reference.grow`.

        Args:
            logits: float32 [T, Vd], the blocks' rows one after the other.
            confidences: float32 [T], or None.
            rows: how many each block has.
            anchors: of each block the row of W1 of the token before its first row.
            nodes: most nodes of a tree.
            floor: least value of a node.
        """
        if self._kernels is not None and logits.device.type == "cpu":
            return self._grow_natively(self._kernels, logits, confidences, rows, anchors, nodes, floor)
        split = [None] * len(rows) if confidences is None else torch.split(confidences, list(rows))
        return [
            reference.grow(own, sure, self.before, self.after, self.weights, anchor, nodes, floor)
            for own, sure, anchor in zip(torch.split(logits, list(rows)), split, anchors, strict=True)
        ]

    def _grow_natively(
        self,
        kernels: native.Library,
        logits: Tensor,
        confidences: Tensor | None,
        rows: Sequence[int],
        anchors: Sequence[int],
        nodes: int,
        floor: float,
    ) -> list[Grown]:
        count, total = len(rows), sum(rows)
        if len(logits) != total or logits.stride(1) != 1:
            raise SpecdecError(f"Blocks of {total} rows were given logits {list(logits.shape)}. Give a dense row each.")
        starts, first = np.array([0, *accumulate(rows)], np.int64), np.array(anchors, np.int64)
        tokens, parents = np.empty((count, nodes), np.int32), np.empty((count, nodes), np.int32)
        chances, sizes = np.empty((count, nodes), np.float64), np.empty(count, np.int64)
        blocks = interface.MarkovBlocks(
            count, starts.ctypes.data, first.ctypes.data,
            logits.stride(0), native.address(logits[0], torch.float32, (self.vocab_size,)),
            native.address(confidences, torch.float32, (total,)),
        )  # fmt: skip
        trees = interface.MarkovTrees(nodes, floor, *(each.ctypes.data for each in (tokens, parents, chances, sizes)))
        kernels.markov_grow(byref(self._struct), byref(blocks), byref(trees), num_threads())
        return [
            Grown(tokens[index, :size].tolist(), parents[index, :size].tolist(), chances[index, :size].tolist())
            for index, size in enumerate(sizes.tolist())
        ]
