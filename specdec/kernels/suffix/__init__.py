"""What followed the ends of a text before, and the likeliest tree of what follows now.

Native where the kernels are there, plain Python otherwise (`specdec.kernels.suffix.reference`, which defines it). The
native index is a suffix automaton: about 100 bytes and a fraction of a microsecond a token, whatever the length of a
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from specdec.kernels.cpu import library
from specdec.kernels.suffix import reference
from specdec.kernels.suffix.native import NativeIndex, native_draft
from specdec.kernels.suffix.reference import MATCH, NOTHING, Bounds, Nodes

Index: TypeAlias = NativeIndex | reference.Index

__all__ = ["MATCH", "NOTHING", "Bounds", "Index", "Nodes", "draft", "suffix_index"]


def suffix_index() -> Index:
    """An empty index."""
    kernels = library.library()
    return reference.Index() if kernels is None else NativeIndex(kernels)


def draft(
    sources: Sequence[Index],
    text: Sequence[int],
    bounds: Bounds,
    given: Nodes = NOTHING,
) -> Nodes:
    """See `reference.draft`. The sources are from `suffix_index`.

    Raises:
        SpecdecError: if there are no sources or more than 4, an id is below 0, or a given node has no earlier parent.
    """
    if isinstance(sources[0], NativeIndex):
        return native_draft(sources, text, bounds, given)  # type: ignore[arg-type]
    return reference.draft(sources, text, bounds, given)  # type: ignore[arg-type]
