"""The suffix order of an array of tokens: its positions sorted by what follows them, to be searched by halving."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

DEPTH = 32
"""Tokens by which positions are sorted: no search looks further, its match and its draft together."""


def suffix_order(tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Positions sorted by the `DEPTH` tokens from there on, equal ones ascending.

    By doubling (Manber and Myers 1993): the ranks of positions by their first w tokens, taken in pairs w apart, give
    those by 2 w. Needs about 40 bytes a token for as long as it runs.

    Args:
        tokens: [n], integers from 0 to 2³² - 2, and n below 2³².

    Returns:
        uint32 [n].
    """
    rank, width = tokens.astype(np.uint64) + 1, 1
    while True:
        pairs = rank << 32
        pairs[:-width] |= rank[width:]
        width *= 2
        order = np.argsort(pairs, kind="stable")
        if width >= DEPTH:
            return order.astype(np.uint32)
        pairs = pairs[order]
        rank[order[:1]] = 1
        rank[order[1:]] = np.cumsum(pairs[1:] != pairs[:-1], dtype=np.uint64) + 1
