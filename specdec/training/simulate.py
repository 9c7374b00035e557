"""What a head would give on held-out answers, without the engine.

A greedy draft is accepted as far as its tokens are the text's. As long as they are, the token before each is the text's
own, so the teacher-forced drafts tell the whole accepted length: nothing is approximated, and on a greedy text τ is
what an engine would count, up to ties that another kernel breaks in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.heads.base import ChainHead, predecessors
from specdec.training.batches import Batch, Batching, Texts, batch_of
from specdec.training.teacher import Teacher


@dataclass(frozen=True)
class Simulated:
    """Of greedy drafts on texts.

    Args:
        tau: tokens per target pass, the target's own one included, as a text is walked through from its first token.
        accuracy: share of hits of each position, teacher-forced.
        survival: share of the blocks whose first k drafts are all hits, for each k.
    """

    tau: float
    accuracy: list[float]
    survival: list[float]


@torch.no_grad()
def simulate(head: ChainHead, teacher: Teacher, texts: Texts, sizes: Batching) -> Simulated:
    """Drafts behind every token of every answer.

    Args:
        head, teacher: on one device; the head is left in the mode that it was in.
        texts: greedy answers.
        sizes: how many texts at once, and the longest.
    """
    device, drafted = head.draft_ids.device, head.config.num_drafted
    passes = tokens = 0
    hits, alive, rows = (torch.zeros(drafted, dtype=torch.float64) for _ in range(3))
    for batch in _batches(texts, sizes):
        hit = _hits(head, teacher, batch.to(device)).cpu()
        there = batch.rows(drafted)
        accepted = (hit & there).cumprod(-1)
        for text in range(len(hit)):
            steps, said = walked(accepted[text].sum(-1)[batch.mask[text]].tolist())
            passes, tokens = passes + steps, tokens + said
        hits += (hit & there).sum((0, 1))
        alive += accepted.sum((0, 1))
        rows += there.sum((0, 1))
    accuracy, survival = ((each / rows.clamp(min=1)).tolist() for each in (hits, alive))
    return Simulated(tokens / max(passes, 1), accuracy, survival)


def walked(accepted: list[int]) -> tuple[int, int]:
    """Passes and tokens of one text: every pass gives the accepted draft and one token more.

    >>> walked([2, 0, 1, 0])  # two drafts and one more; then one draft is the text's last token
    (2, 4)

    Args:
        accepted: for each token but the last, how many drafts behind it are hits.
    """
    place = passes = tokens = 0
    while place < len(accepted):
        said = min(accepted[place] + 1, len(accepted) - place)
        place, tokens, passes = place + said, tokens + said, passes + 1
    return passes, tokens


def _batches(texts: Texts, sizes: Batching) -> Iterator[Batch]:
    whole = Batching(sizes.texts, sizes.max_length, sizes.max_length)
    order = texts.lengths.argsort(stable=True)
    for chosen in torch.split(order, sizes.texts):
        yield batch_of(texts, chosen.tolist(), whole)


def _hits(head: ChainHead, teacher: Teacher, batch: Batch) -> Tensor:
    """bool [B, A, n]: whether each draft is the text's token."""
    seen = teacher.see(batch)
    where = (batch.tokens, batch.anchors, batch.mask, head.config.num_drafted)
    hidden, previous = head.draft_states(seen.taps, *where), predecessors(*where)
    truth = predecessors(batch.tokens, batch.anchors + 1, batch.mask, head.config.num_drafted)
    drafts = [head.logits(*text).argmax(-1) for text in zip(hidden, previous, strict=True)]
    return head.draft_ids[torch.stack(drafts)] == truth
