"""Drafts grown from texts in suffix order: native where the kernels are there, plain Python otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int64
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.retrieval import reference
from specdec.kernels.retrieval.reference import Grown, Limits

__all__ = ["Grown", "Index", "Limits", "grow"]


class Index(reference.Index):
    """See `reference.Index`; remembers what it is to the kernels."""

    @cached_property
    def texts(self) -> interface.RetrievalTexts:
        """For the kernels. It points into `tokens` and `order`, and lives no longer than they."""
        tokens, order = _native(self.tokens), _native(self.order)
        about = len(tokens), tokens.itemsize, self.end, self.depth
        texts = interface.RetrievalTexts(tokens.ctypes.data, order.ctypes.data, *about)
        texts.arrays = tokens, order  # a reference, so that they stay
        return texts


def grow(
    index: Index,
    limits: Limits,
    context: Sequence[int],
    tokens: Sequence[int] = (),
    parents: Sequence[int] = (),
    chances: Sequence[float] = (),
) -> Grown:
    """See `reference.grow`."""
    kernels = native.library()
    if kernels is None:
        return reference.grow(index, limits, context, tokens, parents, chances)
    return native_grow(kernels, index, limits, context, tokens, parents, chances)


def native_grow(
    kernels: native.Library,
    index: Index,
    limits: Limits,
    context: Sequence[int],
    tokens: Sequence[int] = (),
    parents: Sequence[int] = (),
    chances: Sequence[float] = (),
) -> Grown:
    """See `reference.grow`; by these kernels.

    Raises:
        SpecdecError: if the index or the draft is not what it should be.
    """
    given, room = len(tokens), len(tokens) + limits.max_nodes
    suffix = np.array(context[-limits.max_match :], np.int64)
    numbers, rates = np.empty((3, room), np.int64), np.empty(room)
    numbers[0, :given], numbers[1, :given], rates[:given] = tokens, parents, chances
    columns = [column.ctypes.data for column in numbers]
    draft, count = interface.RetrievalDraft(given, *columns, rates.ctypes.data), c_int64()
    bounds = interface.RetrievalLimits(*vars(limits).values())
    kernels.retrieve(byref(index.texts), byref(bounds), suffix.ctypes.data, len(suffix), byref(draft), byref(count))
    new = slice(given, count.value)
    grown_tokens, grown_parents, matches = numbers[:, new].tolist()
    return Grown(grown_tokens, grown_parents, matches, rates[new].tolist())


def _native(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In this machine's byte order; the same memory where that is the file's."""
    return np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("="))
