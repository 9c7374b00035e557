"""Which tokens follow which: a table of bounded size, from the last tokens of a text to its likeliest successors.

A context is the last one, two or three tokens of a text. Its successors are the largest logits of the last row that ran
after it, or the tokens that followed it in a prompt, the latest first. A tree grows from the table, its likeliest nodes
first: the chance of a token is the sigmoid of a sum of log-odds, one for its rank in each list that knows the text, and
one for what the target's draw adds to it, where that is known.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import byref, c_int64

import numpy as np
import numpy.typing as npt

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.successors import reference
from specdec.kernels.successors.reference import (
    FIRST_ROWS,
    KEPT,
    ORDER,
    PREVIOUS,
    READ,
    REFUSED,
    SOURCES,
    TOKEN_BITS,
    WAYS,
    WIDTH,
    Heard,
)  # fmt: skip
from specdec.randomness import Stream

__all__ = [
    "FIRST_ROWS",
    "KEPT",
    "ORDER",
    "PREVIOUS",
    "READ",
    "REFUSED",
    "SOURCES",
    "TOKEN_BITS",
    "WIDTH",
    "Heard",
    "Successors",
]

ENTRY_BYTES = 64
NO_ROWS = (-1,) * (PREVIOUS * WIDTH)


class Successors:
    """The table, in native code.

    Args:
        contexts: how many it keeps; a power of two, at least `WAYS`. When a bucket is full, the entry that was written
            longest ago makes room.
        vocab_size: V, at most 2^20.
        ranks: [SOURCES][WIDTH + 1], log-odds of a token by its rank in a list of each source; the last one of each if
            the list does not have it.
        lengths: [ORDER + 1], log-odds by the length of the longest context that the table knows.
        noise: log-odds by T g of a token, with g its noise and T the temperature, and by T² of every token.
        first: int32 [V, k], successors of every token alone, likeliest first; None if they are not known.
        kernels: the compiled library.
    """

    def __init__(
        self,
        contexts: int,
        vocab_size: int,
        ranks: Sequence[Sequence[float]],
        lengths: Sequence[float],
        noise: tuple[float, float],
        first: npt.NDArray[np.int32] | None,
        kernels: native.Library,
    ) -> None:
        self._kernels = kernels
        self._entries = np.zeros(contexts * ENTRY_BYTES // 8, np.int64)
        self._weights = array("d", [*(weight for row in ranks for weight in row), *lengths, *noise])
        assert len(self._weights) == SOURCES * (WIDTH + 1) + ORDER + 3
        self._first = None if first is None else _padded(first, vocab_size)
        at_first = None if self._first is None else self._first.ctypes.data
        self._struct = interface.Successors(
            contexts // WAYS, vocab_size, 0, self._entries.ctypes.data, at_first, _at(self._weights)
        )

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return self._entries.nbytes + (0 if self._first is None else self._first.nbytes)

    def read(self, scope: int, owner: int, text: Sequence[int], known: int) -> None:
        """Every token of a text after the first `known` follows those before it.

        Args:
            scope: whose table; nothing is found from another scope.
            owner: the request; a context that it wrote itself is a source of its own.
        """
        tokens = array("i", text)
        self._kernels.successors_read(byref(self._struct), scope, owner, _at(tokens), len(tokens), known)

    def learn(
        self,
        scope: int,
        owner: int,
        context: Sequence[int],
        tokens: Sequence[int],
        parents: Sequence[int],
        path: Sequence[int],
        top: npt.NDArray[np.int32],
    ) -> None:
        """Takes the rows of a verified draft: first those that were refused, in their order, then the kept ones. Where
        tokens repeat, the last kept row wins.

        Args:
            scope, owner: see `read`.
            context: at most the last `ORDER` tokens before the draft.
            tokens, parents: the draft.
            path: its nodes that were kept.
            top: int32 [N + 1, k], ids of each row's largest logits, largest first; row 0 after the context, row n + 1
                after node n.
        """
        text, nodes, above, kept = array("i", context), array("i", tokens), array("i", parents), array("q", path)
        rows = array("i", top.tobytes())
        self._kernels.successors_learn(
            byref(self._struct), scope, owner, _at(text), len(text), _at(nodes), _at(above), len(nodes), _at(kept),
            len(kept), _at(rows), *top.shape,
        )  # fmt: skip

    def grow(
        self,
        scope: int,
        owner: int,
        context: Sequence[int],
        previous: Sequence[Sequence[int]],
        tokens: Sequence[int],
        parents: Sequence[int],
        chances: Sequence[float],
        nodes: int,
        depth: int,
        floor: float,
        noise: Heard | None = None,
    ) -> tuple[list[int], list[int], list[float]]:
        """Adds nodes to a tree, those that survive most often first.

        Args:
            scope, owner: see `read`.
            context: at most the last `ORDER` committed tokens.
            previous: at most `PREVIOUS` rows of at most `WIDTH` tokens: what else the row that gave the last token
                ranked high, and what the one before it did.
            tokens, parents, chances: the tree; empty for a new one.
            nodes: most nodes of the whole tree.
            depth: longest branch.
            floor: chance of a node that it and those above it are accepted; below it, no node is added.
            noise: under which the target draws; None: it takes the largest logit, or its noise is not known.

        Returns:
            Tokens, parents and chances of the tree. New nodes have the highest numbers.
        """
        text, count, most = array("i", context), len(tokens), max(nodes, len(tokens))
        room = [0] * (most - count)
        held, above, odds = array("i", [*tokens, *room]), array("i", [*parents, *room]), array("d", [*chances, *room])
        rows = array("i", NO_ROWS)
        for row, others in enumerate(previous[:PREVIOUS]):
            rows[row * WIDTH : row * WIDTH + len(others)] = array("i", others)
        grown, heard = c_int64(), interface.Noise()
        if noise is not None:
            heard = interface.Noise(noise.temperature, noise.random.seed, noise.position, int(Stream.GUMBEL))
        self._kernels.successors_grow(
            byref(self._struct), scope, owner, _at(text), len(text), _at(held), _at(above), count, _at(odds), _at(rows),
            byref(heard), most, depth, floor, byref(grown),
        )  # fmt: skip
        n = grown.value
        return held[:n].tolist(), above[:n].tolist(), odds[:n].tolist()

    def forget(self, scope: int) -> None:
        """Nothing of this scope is known any more."""
        self._kernels.successors_forget(byref(self._struct), scope)


Table = Successors | reference.Table


def make(
    contexts: int,
    vocab_size: int,
    ranks: Sequence[Sequence[float]],
    lengths: Sequence[float],
    noise: tuple[float, float],
    first: npt.NDArray[np.int32] | None = None,
) -> Table:
    """A table in native code; in Python where there is none."""
    if (kernels := native.library()) is not None:
        return Successors(contexts, vocab_size, ranks, lengths, noise, first, kernels)
    return reference.Table(contexts // WAYS, ranks, lengths, noise, None if first is None else first.tolist())


def _padded(first: npt.NDArray[np.int32], vocab_size: int) -> npt.NDArray[np.int32]:
    """The rows with `WIDTH` columns; -1 where there is no token."""
    rows = np.full((vocab_size, WIDTH), -1, np.int32)
    rows[:, : first.shape[1]] = first
    return rows


def _at(numbers: array[int] | array[float]) -> int:
    return numbers.buffer_info()[0]
