"""A head, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from specdec.heads.base import ChainHead, at, predecessors
from specdec.training.batches import Batch
from specdec.training.losses import LossConfig, Rows
from specdec.training.teacher import Seen, Teacher

CELLS = 1 << 28
"""Logits of drafts at once, rows · draft vocabulary: their gradients need several times as many numbers."""


@dataclass(frozen=True)
class Judged:
    """What a batch showed.

    Args:
        loss: weighted sum over rows, divided by what was asked.
        hits: float32 [n], how many drafts of each position were the text's tokens, teacher-forced.
        accepted: float32 [n], the sum of the chances of acceptance at temperature 1, Σ min(p, q).
        rows: float32 [n], how many there were.
    """

    loss: Tensor
    hits: Tensor
    accepted: Tensor
    rows: Tensor


class Objective(nn.Module):
    """The loss of a head: as one module, so that it can be run in several processes.

    Args:
        head: that learns.
        teacher: the frozen target.
        loss: what is summed.
    """

    def __init__(self, head: ChainHead, teacher: Teacher, loss: LossConfig) -> None:
        super().__init__()
        self.head, self._teacher, self._loss = head, teacher, loss

    def weight(self, batch: Batch, depth: int | None = None) -> float:
        """The sum of the weights of the batch's rows; see `forward`."""
        depth = depth or self.head.config.num_drafted
        return float((batch.rows(depth).sum((0, 1)).cpu() * self._loss.row_weights(depth)).sum())

    def forward(self, batch: Batch, total: float, depth: int | None = None) -> Judged:
        """Judges every draft of a batch.

        Args:
            batch: on the head's device.
            total: what the weighted sum of losses is divided by: `weight` of all batches of the step.
            depth: rows of each draft that are judged, the first ones; None for all.
        """
        depth, seen = depth or self.head.config.num_drafted, self._teacher.see(batch)
        rows = batch.rows(depth)
        where = (batch.tokens, batch.anchors, batch.mask, depth)
        hidden, previous = self.head.draft_states(seen.taps, *where)[rows], predecessors(*where)[rows]
        laws, place = self._laws(batch, seen)
        before = batch.anchors[..., None] + torch.arange(depth, device=batch.tokens.device)
        labels = self.head.draft_index[at(batch.tokens, torch.where(rows, before + 1, 0))]
        which = at(place, torch.where(rows, before, 0))
        row = torch.arange(depth, device=rows.device).expand(rows.shape)
        return self._judged(hidden, previous, laws, which[rows], labels[rows], row[rows], total)

    def _laws(self, batch: Batch, seen: Seen) -> tuple[Tensor, Tensor]:
        """The target's law behind each token of the answers, [P, Vd], and each position's row in it, int64 [B, S]."""
        places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        asked = (places >= batch.starts[:, None]) & (places < batch.lengths[:, None] - 1)
        return self._teacher.law(seen, asked, self.head), asked.flatten().cumsum(0).view(asked.shape) - 1

    def _judged(
        self, hidden: Tensor, previous: Tensor, laws: Tensor, which: Tensor, labels: Tensor, row: Tensor, total: float
    ) -> Judged:
        drafted = self.head.config.num_drafted
        each = max(CELLS // self.head.config.draft_vocab_size, 1)
        counts = torch.zeros(3, drafted, device=hidden.device)
        weights = self._loss.row_weights(drafted, hidden.device)
        loss = hidden.new_zeros((), dtype=torch.float32)
        judge = self._of_rows if len(hidden) <= each else self._again
        for part in zip(*(torch.split(tensor, each) for tensor in (hidden, previous, which, labels, row)), strict=True):
            losses, shown = judge(part[0], part[1], laws, *part[2:4])
            loss = loss + (losses * weights[part[-1]]).sum()
            counts.index_add_(1, part[-1], shown)
        return Judged(loss / total, *counts)

    def _again(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """As `_of_rows`, which runs a second time for the gradients: the logits of one part alone are held."""
        found: tuple[Tensor, Tensor] = checkpoint(self._of_rows, *given, use_reentrant=False, preserve_rng_state=False)
        return found

    def _of_rows(
        self, hidden: Tensor, previous: Tensor, laws: Tensor, which: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of each row, [N], and hits, acceptances and ones, [3, N]."""
        logits = self.head.logits(hidden, previous).float()
        rows = Rows(logits.log_softmax(-1), laws[which], labels)
        losses = self._loss.of(rows)
        with torch.no_grad():
            accepted = rows.accepted.detach().clamp(0, 1)
            shown = torch.stack([(logits.argmax(-1) == labels).float(), accepted, torch.ones_like(accepted)])
        confidence = self.head.confidence_logits(hidden, previous)
        if confidence is not None and self._loss.confidence:
            right = F.binary_cross_entropy_with_logits(confidence.float(), accepted, reduction="none")
            losses = losses + self._loss.confidence * right
        return losses, shown
