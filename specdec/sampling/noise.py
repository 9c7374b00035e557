"""The noise under which a target draws, where it is known before anything is drafted."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from specdec.kernels.rows import gumbel_noise
from specdec.randomness import RandomSource
from specdec.sampling.params import SamplingParams


class Noise(NamedTuple):
    """T g: a draw at temperature T is the argmax of the logits and this, among the tokens that the filters leave.

    Args:
        params: of the request: temperature T, above 0, and filters.
        random: the request's own source.
        position: of the first token that is drafted.
    """

    params: SamplingParams
    random: RandomSource
    position: int

    def at(self, depth: int, size: int, ids: Tensor | None = None) -> Tensor:
        """T g of the tokens 0 .. size - 1 at a depth of the draft, or of some tokens: float32 [size], on the CPU.

        Args:
            depth: of the tokens.
            size: how many.
            ids: int64 [size], which they are.
        """
        return self.params.temperature * gumbel_noise(self.random, self.position + depth, size, ids)
