"""Suffix indexes of the native library."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from weakref import finalize

from specdec.kernels.cpu.interface import SuffixBounds, SuffixNodes
from specdec.kernels.cpu.library import Library
from specdec.kernels.suffix.reference import MATCH, Bounds, Nodes, weight_of


class NativeIndex:
    """See `reference.Index`. Its memory is not Python's, and goes with it.

    Args:
        kernels: the library.
    """

    def __init__(self, kernels: Library) -> None:
        handle = c_void_p()
        kernels.suffix_new(byref(handle))
        self.handle, self.kernels, self.size, self.weight = handle.value, kernels, 0, weight_of(0)
        finalize(self, kernels.suffix_free, handle)

    def extend(self, tokens: Sequence[int], fresh: bool = False) -> None:
        """See `reference.Index`.

        Raises:
            SpecdecError: if an id is below 0, or there is no more room.
        """
        added = array("i", tokens)
        self.kernels.suffix_extend(self.handle, added.buffer_info()[0], len(added), fresh)
        self.size += len(added)
        self.weight = weight_of(self.size)

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        held = c_int64()
        self.kernels.suffix_bytes(self.handle, byref(held))
        return held.value


def native_draft(sources: Sequence[NativeIndex], text: Sequence[int], bounds: Bounds, given: Nodes) -> Nodes:
    """See `reference.draft`."""
    tail, first, room = array("i", text[-MATCH:]), len(given.tokens), [0] * bounds.nodes
    indexes, weights = array("Q", [each.handle or 0 for each in sources]), array("d", [each.weight for each in sources])
    tokens, parents = array("i", [*given.tokens, *room]), array("i", [*given.parents, *room])
    chances, kinds = array("d", [*given.chances, *room]), array("i", [*given.kinds, *room])
    nodes = SuffixNodes(first, *(each.buffer_info()[0] for each in (tokens, parents, kinds, chances)))
    filled, kernels = c_int64(), sources[0].kernels
    kernels.suffix_draft(
        indexes.buffer_info()[0], weights.buffer_info()[0], len(indexes), tail.buffer_info()[0], len(tail),
        byref(SuffixBounds(*bounds)), byref(nodes), byref(filled),
    )  # fmt: skip
    new = slice(first, filled.value)
    return Nodes(tokens[new].tolist(), parents[new].tolist(), chances[new].tolist(), kinds[new].tolist())
