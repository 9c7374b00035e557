"""What logits say of a text, for the engines that give arrays. Needs NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np


def losses_of(logits: Any, text: list[int]) -> list[float]:
    """-log p of each token but the first, in nats.

    Args:
        logits: floats [T, V], of all T tokens of the text; the last row is not used.
        text: T ids.
    """
    rows = np.asarray(logits)[: len(text) - 1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(rows)), text[1:]]
    return list((np.log(np.exp(rows).sum(axis=1)) - chosen).tolist())
