"""Matrices in blocks, as files have them."""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType, quantize
from torch import Tensor

from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.layouts import TYPES

HALVES = {"Q4_K": (slice(0, 4), (1 / 200, 1 / 27)), "Q6_K": (slice(208, 210), (1 / 1400,))}
"""Types that the gguf package reads and does not write → where a block's halves are, and how large they are if weights
have a standard deviation of about 1, whatever the other bytes are."""


def written(kind: str, weight: Tensor) -> Blocks:
    """A matrix as the gguf package writes it. What it does not write are random bytes: blocks of weights of the same
    size, and no more alike."""
    return Blocks(kind, torch.from_numpy(packed(kind, weight.numpy())).view(len(weight), -1, TYPES[kind].num_bytes),
                  weight.shape[1])  # fmt: skip


def packed(kind: str, weight: np.ndarray) -> np.ndarray:
    """The same as bytes, uint8 [N, bytes of a row], or numbers in a float type."""
    if kind not in HALVES:
        return quantize(weight, GGMLQuantizationType[kind])
    rows, k = weight.shape
    draw = np.random.default_rng(rows + k)
    data = draw.integers(0, 256, (rows, k // TYPES[kind].span, TYPES[kind].num_bytes), np.uint8)
    place, sizes = HALVES[kind]
    halves = weight.std() * np.array(sizes) * draw.uniform(0.5, 1.5, (*data.shape[:2], len(sizes)))
    data[..., place] = halves.astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)
