"""Counter-based random numbers: each one is a pure function of what it is for.

There is no generator state, so nothing depends on batch order, on preemption, or on who asks how often.
Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), Philox-4x32-10.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specdec.errors import ConfigError

WORD = 2**32
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)


class Stream(enum.IntEnum):
    """What a random number decides. Losslessness needs the first four to be independent of each other."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    BONUS = 3
    GUMBEL = 4
    CHOICE = 5


@dataclass(frozen=True)
class RandomSource:
    """The random numbers of one request.

    A number is named by the counter (position, anchor, stream, lane), under the key `seed`:

    - position: absolute position of the token that it decides;
    - anchor: number of committed tokens when the step began. A position that was drafted and refused is
      drafted anew in the next step and must not meet its old numbers again. With token-level rejection the
      reuse would be harmless, but block and traversal verification let a later position decide whether an
      earlier one is accepted, so the text that the next step continues is not independent of the old numbers;
    - lane: tells candidates of one position apart.

    Args:
        seed: the key, in [0, 2**64).

    Raises:
        ConfigError: if the seed is out of range; in the methods, if a counter word is not in [0, 2**32).
    """

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < WORD**2:
            raise ConfigError(f"seed = {self.seed} is not in [0, 2**64). Give a seed of at most 64 bits.")

    @property
    def _key(self) -> tuple[int, int]:
        return self.seed % WORD, self.seed // WORD

    def uniform(self, stream: Stream, position: int, anchor: int = 0, lane: int = 0) -> float:
        """One float64 uniform on a grid of 2**32 midpoints, never 0 or 1."""
        _require_words((position, anchor, lane))
        # Plain integers: for one number they are ten times as fast as arrays, and the code is the same.
        words = _philox([int(position), int(anchor), int(stream), int(lane)], self._key)
        return float((words[0] + 0.5) / WORD)

    def gumbel(self, position: int, size: int) -> Tensor:
        """Standard Gumbel noise -log(-log(u)) for the tokens 0 .. size - 1 of one position, float64 [size].

        Token i has word i % 4 of lane i // 4, so its noise is a function of (seed, position, i) alone. The
        anchor is left out on purpose: the same noise whatever was drafted is what makes the emitted text
        independent of the drafter (Daliri, Musco and Suresh 2025).
        """
        _require_words((position, size))
        lanes = np.arange(-(-size // 4), dtype=np.uint64)
        noise = np.empty((len(lanes), 4))
        for i, word in enumerate(_philox([int(position), 0, int(Stream.GUMBEL), lanes], self._key)):
            noise[:, i] = word
        noise += 0.5
        noise /= WORD
        for _ in range(2):
            np.log(noise, out=noise)
            np.negative(noise, out=noise)
        return torch.from_numpy(noise.reshape(-1)[:size])


def _philox(counter: Sequence[Any], key: tuple[int, int]) -> Sequence[Any]:
    """The four random words of a counter, under a key of two words in [0, 2**32) (Salmon et al. 2011, section 3.3).

    Args:
        counter: four words in [0, 2**32): python integers, uint64 arrays, or a mixture that broadcasts.
        key: two words in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # 32 x 32 bits: fits 64
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & (WORD - 1)
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & (WORD - 1)
        k0, k1 = (k0 + KEY_INCREMENTS[0]) % WORD, (k1 + KEY_INCREMENTS[1]) % WORD
    return c0, c1, c2, c3


def _require_words(values: Iterable[int]) -> None:
    """A wrapped counter would silently repeat the numbers of another one."""
    for value in values:
        if not 0 <= value < WORD:
            raise ConfigError(f"Counter word {value} is not in [0, 2**32): count positions and lanes from 0.")
