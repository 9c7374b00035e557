"""What a drafter is asked, made without an engine."""

from __future__ import annotations

from collections.abc import Sequence

from specdec import DraftRequest, SamplingParams, StepKey
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import LogitsTransform
from tests.tiny import VOCAB_SIZE


def draft_request(
    tokens: Sequence[int],
    max_depth: int = 8,
    request_id: int = 0,
    rule: str = "greedy",
    params: SamplingParams | None = None,
    vocab_size: int = VOCAB_SIZE,
) -> DraftRequest:
    """A request that asks for a draft after `tokens`; its id is its seed."""
    transform = LogitsTransform(params or SamplingParams(), [], vocab_size)
    key = StepKey(RandomSource(request_id), anchor=len(tokens))
    return DraftRequest(request_id, tokens, max_depth, transform, RULES.create(rule), key)
