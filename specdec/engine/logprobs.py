"""Log-probabilities that a request wants to see: of the tokens of its text, and of its prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specdec.engine.request import Request
from specdec.engine.verdicts import Decoded
from specdec.sampling import log_probability, top_log_probabilities


@dataclass(frozen=True)
class Scored:
    """Of each of some tokens, in order.

    Args:
        logprobs: its natural log-probability.
        tops: the most probable tokens in its place, with theirs; empty if none are wanted.
    """

    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Tensor, tokens: Sequence[int], count: int) -> Scored:
        """Under float [R, V] logits, one row for each token, with `count` most probable ones beside it."""
        return cls(log_probability(rows, tokens).tolist(), top_log_probabilities(rows, count) if count else [])


def score_step(item: Decoded, path: Sequence[int], tokens: Sequence[int]) -> Scored:
    """The tokens that a step added: those of an accepted path, and the target's own. Each is scored by the row that it
    follows, which in a tree is not the row before it.

    Args:
        item: what was verified.
        path: nodes that were accepted.
        tokens: what the request took of them.
    """
    request, logits = item.request, item.verified.logits
    if request.params.logprobs is None:
        return Scored()
    assert logits is not None  # such a request is not judged by argmax
    rows = logits[[0, *(node + 1 for node in path)][: len(tokens)]]
    scored = Scored.of(rows, tokens, request.params.logprobs)
    request.logprobs.extend(scored.logprobs)
    request.top_logprobs.extend(scored.tops)
    return scored


def score_prompt(request: Request, start: int, num_rows: int, logits: Tensor | None) -> None:
    """Scores what a pass tells of a request's prompt, unless that is known from an earlier time in the cache.

    Args:
        request: gains the scores.
        start: committed tokens before the first row.
        num_rows: rows of committed tokens, the first ones of `logits`; each scores the token after its own.
        logits: float [≥ num_rows, V], of all rows of the request. Not looked at if there is nothing left to score.
    """
    if not request.scores_prompt:
        return
    assert logits is not None  # `Scheduled.rows` asked for them
    known = len(request.prompt_logprobs)
    end = min(start + num_rows, len(request.prompt) - 1)
    rows = logits[known - start : end - start]
    scored = Scored.of(rows, request.prompt[known + 1 : end + 1], request.params.prompt_logprobs or 0)
    request.prompt_logprobs.extend(scored.logprobs)
    request.prompt_top_logprobs.extend(scored.tops)
