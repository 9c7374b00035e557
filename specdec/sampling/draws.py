"""Scores → probabilities, and tokens drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.errors import NumericalError
from specdec.kernels.rows import log_sums_exp


def probabilities(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, float [..., V] → float32 [..., V]; NaN in rows of -inf alone."""
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def sample_from_weights(weights: Tensor, u: float) -> int:
    """Draws a token by inverting the cumulative distribution, in float64.

    Args:
        weights: float [V], not negative; they need not sum to 1.
        u: uniform in (0, 1).

    Returns:
        A token whose weight is not 0.

    Raises:
        NumericalError: if the weights have a NaN, an infinity, a negative entry, or no mass.
    """
    cumulative = weights.to(torch.float64).cumsum(dim=0)
    total = float(cumulative[-1])
    if not (0 < total < math.inf and bool((weights >= 0).all())):
        raise NumericalError(
            f"No token can be drawn from weights of total {total}, smallest {float(weights.min())}. "
            "Look for NaN logits, a mask that bans every token, or an empty residual."
        )
    # The first entry above the point is where the sum grew, so its weight is not 0.
    point = min(u * total, math.nextafter(total, 0.0))
    return int(torch.searchsorted(cumulative, point, right=True))


def top_log_probabilities(logits: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The k most probable tokens of each row of logits, float [R, V], most probable first, with their natural
    log-probabilities. A row's result is the same bits whatever rows share the call."""
    listed = []
    for row, normalizer in zip(logits, log_sums_exp(logits), strict=True):
        values, tokens = row.float().topk(min(k, len(row)))
        listed.append(list(zip(tokens.tolist(), (values - normalizer).tolist(), strict=True)))
    return listed


def log_probability(
    logits: Tensor, tokens: Tensor | Sequence[int], rows: Tensor | Sequence[int] | None = None
) -> Tensor:
    """Log-softmax of each row at some tokens, without the softmax of the others.

    Args:
        logits: float [R, V].
        tokens: int64 [N], or N token ids.
        rows: of each of them its row; None is one token for each row, in order.

    Returns:
        float32 [N], in nats. A row's result is the same bits whatever rows share the call.
    """
    device = logits.device
    columns = torch.as_tensor(tokens, dtype=torch.long, device=device)
    if rows is None:
        places = torch.arange(len(logits), device=device)
    else:
        places = torch.as_tensor(rows, dtype=torch.long, device=device)
    return logits[places, columns].to(torch.float32) - log_sums_exp(logits)[places]
