"""What a caller gets back."""

from __future__ import annotations

from dataclasses import dataclass, field

from specdec.engine.request import FinishReason, Request, TextPiece
from specdec.errors import SpecdecError
from specdec.stats import DecodingStats
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class StepOutput:
    """What one request gained in one step.

    Args:
        request: the request; `request.finished` tells whether this was its last step.
        tokens: token ids that were appended.
        pieces: text that became certain, in order.
        draft: what the target verified.
        path: nodes of the draft that were accepted, first to last.
    """

    request: Request
    tokens: list[int]
    pieces: list[TextPiece] = field(default_factory=list)
    draft: DraftTree = field(default_factory=DraftTree)
    path: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What came of one prompt.

    Args:
        text: the generated text.
        token_ids: the generated tokens; an end token is included, a stop string's tokens too.
        logprobs: natural log-probability of each token under the target itself, before the sampling transform; None
            unless `SamplingParams.logprobs` was set.
        finish_reason: "stop" (end token or stop string), "length", "error" or "aborted".
        seed: seed of the request's random numbers; the same seed gives the same text again.
        stats: τ, α, acceptance by position, time split.
        error: what went wrong, if `finish_reason` is "error".
    """

    text: str
    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason
    seed: int
    stats: DecodingStats
    error: Exception | None = None

    @classmethod
    def of(cls, request: Request, text: str) -> Generation:
        """The result of a finished request."""
        assert request.finish_reason is not None
        return cls(
            text=text,
            token_ids=request.output,
            logprobs=request.logprobs if request.params.logprobs else None,
            finish_reason=request.finish_reason,
            seed=request.random.seed,
            stats=request.stats,
            error=request.error,
        )

    @classmethod
    def refused(cls, error: Exception) -> Generation:
        """The result of a prompt that never became a request."""
        return cls("", [], None, "error", 0, DecodingStats(), error)


@dataclass(frozen=True)
class StreamEvent:
    """What one prompt gained in one step.

    Text is never taken back: all `pieces` of a prompt, put together, are its text.

    Args:
        index: which prompt.
        pieces: text that became certain.
        token_ids: tokens that were appended.
        generation: set with the prompt's last event, which gains nothing else.
        draft: what the target verified in the step.
        path: nodes of the draft that were accepted, first to last.
    """

    index: int
    pieces: list[TextPiece]
    token_ids: list[int]
    generation: Generation | None = None
    draft: DraftTree = field(default_factory=DraftTree)
    path: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The pieces' text."""
        return "".join(piece.text for piece in self.pieces)


class BatchError(SpecdecError):
    """Some requests of a batch failed while the others finished.

    Attributes:
        generations: one per prompt; the failed ones carry their error.
    """

    def __init__(self, generations: list[Generation]) -> None:
        self.generations = generations
        failed = {i: g.error for i, g in enumerate(generations) if g.error is not None}
        first = next(iter(failed))
        super().__init__(
            f"{len(failed)} of {len(generations)} requests failed; prompt {first}: {failed[first]} "
            "The others' results are in the `generations` attribute of this error."
        )
