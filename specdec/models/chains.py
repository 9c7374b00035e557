"""Chains of rows as the native pass takes them: what `RaggedBatch` and its tables say, with less work around the call.

A pass of a drafting model takes a millisecond, of which the general tables would be a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.models.batch import SequenceRows


class Chains:
    """A batch for the C interface.

    Args:
        parts: rows of each sequence, none of them run before, each following the one before it.
    """

    def __init__(self, parts: Sequence[SequenceRows]) -> None:
        counts = [len(part.tokens) for part in parts]
        ends = [part.committed + count for part, count in zip(parts, counts, strict=True)]
        starts = [0, *accumulate(counts)]
        columns = (
            [token for part in parts for token in part.tokens],
            [position for part, end in zip(parts, ends, strict=True) for position in range(part.committed, end)],
            [start + row for start, part in zip(starts, parts, strict=False) for row in part.logit_rows],
            starts,
            [part.committed for part in parts],
            [0, *accumulate(ends)],
            [0] * (len(parts) + 1),  # rows run before, and parents: there are none
        )
        numbers = np.array([number for column in columns for number in column], np.int64)
        places = accumulate(map(len, columns[:-1]), initial=0)
        tokens, positions, wanted, rows, committed, borders, zeros = (
            numbers.ctypes.data + numbers.itemsize * place for place in places
        )
        read = [part.slots[:end] for part, end in zip(parts, ends, strict=True)]
        slots = joined(read)
        writes = joined([own[-count:] for own, count in zip(read, counts, strict=True)])
        sequences = interface.Sequences(
            len(parts), rows, committed, zeros, borders, native.address(slots, torch.int64), zeros, zeros
        )
        self.num_logits = len(columns[2])
        self.struct = interface.Batch(
            starts[-1], self.num_logits, 0, 1, tokens, positions, native.address(writes, torch.int64), wanted, None,
            None, sequences,
        )  # fmt: skip
        self._alive = numbers, slots, writes


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
