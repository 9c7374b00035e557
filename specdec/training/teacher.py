"""The frozen target as a teacher: what it saw at every position of a text, and what it would have said next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from specdec.heads.base import Head
from specdec.training.batches import Batch

LOGIT_ROWS = 4096
"""Rows of whole-vocabulary logits at once."""


@dataclass(frozen=True)
class Seen:
    """What the target saw of a batch.

    Args:
        taps: [B, S, k, H], hidden states at the boundaries that the head reads.
        final: [B, S, H], after the last norm.
        normalizer: float32 [B, S], the logarithm of the sum of the exponentials of its logits, if it is known.
    """

    taps: Tensor
    final: Tensor
    normalizer: Tensor | None = None


class Teacher:
    """The target's own module, whose passes are run anew for every batch: nothing is stored.

    Args:
        module: on its device, in its dtype; of the family that names its layers as Llama does.
        taps: boundaries as transformers counts its `hidden_states`; the last one is after the last norm.
    """

    def __init__(self, module: PreTrainedModel, taps: tuple[int, ...]) -> None:
        self._base, self._taps = module.eval().requires_grad_(False).base_model, taps
        self._output = module.get_output_embeddings().weight

    @torch.no_grad()
    def see(self, batch: Batch) -> Seen:
        """Runs the texts; what stands behind a text's end is seen by no position of the text."""
        found = self._base(input_ids=batch.tokens, output_hidden_states=True, use_cache=False)
        taps = torch.stack([found.hidden_states[boundary] for boundary in self._taps], 2)
        return Seen(taps, found.last_hidden_state)

    @torch.no_grad()
    def law(self, seen: Seen, where: Tensor, head: Head) -> Tensor:
        """The next token's probabilities at N positions, float32 [N, Vd], of the head's draft vocabulary. What is
        missing to 1 is outside of it.

        Args:
            seen: of the batch.
            where: bool [B, S].
            head: on the target's device.
        """
        final, known = seen.final[where], self._output[head.draft_ids]
        normalizer = self.normalizer(final) if seen.normalizer is None else seen.normalizer[where]
        return (F.linear(final, known).float() - normalizer[:, None]).exp()

    @torch.no_grad()
    def normalizer(self, final: Tensor) -> Tensor:
        """Final states [N, H] → float32 [N], see `Seen.normalizer`: over the whole vocabulary, which takes most of the
        time of a law."""
        parts = torch.split(final, LOGIT_ROWS)
        return torch.cat([F.linear(rows, self._output).float().logsumexp(-1) for rows in parts])
