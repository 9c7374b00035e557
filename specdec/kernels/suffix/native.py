"""Suffix indexes of the native library."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref, c_double, c_int32, c_int64, c_void_p
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
        self.handle, self.kernels, self.size = handle.value, kernels, 0
        finalize(self, kernels.suffix_free, handle)

    def extend(self, tokens: Sequence[int], fresh: bool = False) -> None:
        """See `reference.Index`.

        Raises:
            SpecdecError: if an id is below 0, or there is no more room.
        """
        self.kernels.suffix_extend(self.handle, (c_int32 * len(tokens))(*tokens), len(tokens), fresh)
        self.size += len(tokens)

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        held = c_int64()
        self.kernels.suffix_bytes(self.handle, byref(held))
        return held.value


def native_draft(sources: Sequence[NativeIndex], text: Sequence[int], bounds: Bounds, given: Nodes) -> Nodes:
    """See `reference.draft`."""
    tail, first = text[-MATCH:], len(given.tokens)
    room = first + bounds.nodes
    tokens, parents = (c_int32 * room)(*given.tokens), (c_int32 * room)(*given.parents)
    kinds, chances = (c_int32 * room)(), (c_double * room)(*given.chances)
    nodes = SuffixNodes(first, addressof(tokens), addressof(parents), addressof(kinds), addressof(chances))
    filled, kernels = c_int64(), sources[0].kernels
    kernels.suffix_draft(
        (c_void_p * len(sources))(*(index.handle for index in sources)),
        (c_double * len(sources))(*(weight_of(index.size) for index in sources)),
        len(sources),
        (c_int32 * len(tail))(*tail),
        len(tail),
        byref(SuffixBounds(*bounds)),
        byref(nodes),
        byref(filled),
    )
    new = slice(first, filled.value)
    return Nodes(tokens[new], parents[new], chances[new], kinds[new])
