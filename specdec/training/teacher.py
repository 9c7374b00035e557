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
    """

    taps: Tensor
    final: Tensor


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
    def law(self, final: Tensor, head: Head) -> Tensor:
        """The next token's probabilities: final states [N, H] → float32 [N, Vd], of the head's draft vocabulary. What
        is missing to 1 is outside of it."""
        laws = []
        for rows in torch.split(final, LOGIT_ROWS):
            logits = F.linear(rows, self._output)
            known = logits if head.config.draft_vocab_size == len(self._output) else logits[:, head.draft_ids]
            laws.append((known.float() - logits.float().logsumexp(-1, keepdim=True)).exp())
        return torch.cat(laws)
