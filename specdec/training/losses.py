"""How far a draft is from the target, row by row. The target's probabilities are over its whole vocabulary: what lies
outside the draft vocabulary is one more token, which the draft never guesses.

p is the target's law, q the draft's; the acceptance rate of one draft token is Σ min(p, q) = 1 - TV(p, q) (Leviathan
et al. 2023, theorem 3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.checks import number, settle, whole
from specdec.errors import ConfigError

_SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_WEIGHT = number(lambda value: 0 <= value < float("inf"), "a number >= 0")


@dataclass(frozen=True)
class Rows:
    """What rows are judged by.

    Args:
        log_q: float32 [N, Vd], of the draft.
        p: float32 [N, Vd], of the target, not normed: what is missing to 1 is outside.
        labels: int64 [N], the tokens of the text, by their place in the draft vocabulary; Vd for those outside.
    """

    log_q: Tensor
    p: Tensor
    labels: Tensor

    @cached_property
    def accepted(self) -> Tensor:
        """Σ min(p, q), [N]."""
        return torch.minimum(self.p, self.log_q.exp()).sum(-1)


def cross_entropy(rows: Rows) -> Tensor:
    """-log q(token); 0 for a token outside, which no draft can guess."""
    known = rows.labels < rows.log_q.shape[-1]
    picked = rows.log_q.gather(-1, torch.where(known, rows.labels, 0)[:, None])[:, 0]
    return torch.where(known, -picked, 0.0)


def kl(rows: Rows) -> Tensor:
    """KL(p | known ‖ q): of the target's law among the tokens that the draft knows."""
    known = rows.p / rows.p.sum(-1, keepdim=True).clamp(min=1e-9)
    entropy: Tensor = torch.special.xlogy(known, known).sum(-1)
    return entropy - (known * rows.log_q).sum(-1)


def tv(rows: Rows) -> Tensor:
    """TV(p, q) = 1 - Σ min(p, q): half of Σ |p - q| over the whole vocabulary."""
    return 1 - rows.accepted


def lk(rows: Rows) -> Tensor:
    """-log Σ min(p, q), the log-likelihood of an acceptance (LK-α, SpecForge)."""
    return -rows.accepted.clamp(min=1e-6).log()


LOSSES: Mapping[str, Callable[[Rows], Tensor]] = {"ce": cross_entropy, "kl": kl, "tv": tv, "lk": lk}


@dataclass(frozen=True)
class LossConfig:
    """A weighted sum of losses. The defaults are DSpark's (arXiv 2607.05147).

    Args:
        ce, kl, tv, lk: weights of the losses of `LOSSES`.
        confidence: weight of the binary cross entropy of the confidence head against 1 - TV.
        decay: row k of a draft, from 1, counts exp(-(k - 1) / decay).
        first_row: share of the run in which a draft's first row alone is learnt, which is cheap for a head that drafts
            token by token: its later rows cost a pass each.
        rows: rows of a draft that are learnt at all, the first ones: of such a head the steps of its training-time
            test. None for all.
    """

    ce: float = 0.1
    kl: float = 0.0
    tv: float = 0.9
    lk: float = 0.0
    confidence: float = 1.0
    decay: float = 4.0
    first_row: float = 0.0
    rows: int | None = None

    def __post_init__(self) -> None:
        settle(self, dict.fromkeys(asdict(self), _WEIGHT) | {"first_row": _SHARE, "rows": whole(1).or_none()})
        if not any(getattr(self, name) for name in LOSSES):
            raise ConfigError(f"A loss without any of {', '.join(LOSSES)} teaches nothing. Give one of them a weight.")

    def of(self, rows: Rows) -> Tensor:
        """The sum for each row, [N], without the confidence."""
        terms = [getattr(self, name) * loss(rows) for name, loss in LOSSES.items() if getattr(self, name)]
        return torch.stack(terms).sum(0)

    def depth(self, progress: float, drafted: int) -> int:
        """Rows of a draft that are learnt, of n, at a share of the run."""
        return min(drafted, self.rows or drafted) if progress >= self.first_row else 1

    def row_weights(self, drafted: int, device: torch.device | str = "cpu") -> Tensor:
        """exp(-(k - 1) / decay) for k = 1 … n, [n]; a decay of 0 lets only the first row count."""
        places = torch.arange(drafted, device=device, dtype=torch.float32)
        return torch.exp(-places / self.decay) if self.decay else (places == 0).float()
