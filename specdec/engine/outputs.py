"""What a caller gets back."""

from __future__ import annotations

from dataclasses import dataclass, field

from specdec.checks import shown
from specdec.engine.request import FinishReason, Request, TextPiece
from specdec.errors import SpecdecError
from specdec.stats import NOBODY, DecodingStats
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class StepOutput:
    """What one request gained in one step.

    Args:
        request: the request; `request.error` tells why it failed.
        pieces: text that became certain, in order.
        token_ids: tokens that were appended.
        finish_reason: set in its last output: "stop", "length", "error" or "aborted".
        draft: what the target verified.
        path: nodes of the draft that were accepted, first to last.
        logprobs: natural log-probability of each token, if the request wants them.
        top_logprobs: for each token the most probable ones in its place, with their log-probabilities, likewise.
        drafter: name of the drafter whose draft this was; `specdec.stats.NOBODY` if it is empty.

    The same of the prompt, if the request wants it, is in the request: `prompt_logprobs` and `prompt_top_logprobs`, of
    its tokens from the second one on. They are complete when the first token is there.
    """

    request: Request
    pieces: list[TextPiece] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    draft: DraftTree = field(default_factory=DraftTree)
    path: tuple[int, ...] = ()
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    drafter: str = NOBODY


@dataclass(frozen=True)
class Generation:
    """What came of one prompt.

    Args:
        text: the generated text.
        token_ids: the generated tokens; an end token is included, a stop string's tokens too.
        logprobs: natural log-probability of each token under the target itself, before the sampling transform; None
            unless `SamplingParams.logprobs` was set.
        top_logprobs: for each token the most probable ones in its place, with their log-probabilities; None unless
            `SamplingParams.logprobs` was above 0.
        prompt_logprobs: the same of each token of the prompt; None for the first, which follows nothing. None unless
            `SamplingParams.prompt_logprobs` was set.
        prompt_top_logprobs: the same of each token of the prompt; none for the first. None unless
            `SamplingParams.prompt_logprobs` was above 0.
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
    top_logprobs: list[list[tuple[int, float]]] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top_logprobs: list[list[tuple[int, float]]] | None = None

    def __str__(self) -> str:
        """One line: how it ended, its size, τ and α, and how the text begins."""
        if self.error is not None:
            return f"error: {self.error}"
        tau, alpha = self.stats.mean_accepted_length, self.stats.acceptance_rate
        return (
            f"{self.finish_reason} after {len(self.token_ids)} tokens, τ {tau:.2f}, α {alpha:.2f}: {shown(self.text)}"
        )

    @classmethod
    def of(cls, request: Request, text: str) -> Generation:
        """The result of a finished request."""
        assert request.finish_reason is not None
        params = request.params
        return cls(
            text=text,
            token_ids=request.output,
            logprobs=None if params.logprobs is None else request.logprobs,
            finish_reason=request.finish_reason,
            seed=request.random.seed,
            stats=request.stats,
            error=request.error,
            top_logprobs=request.top_logprobs if params.logprobs else None,
            prompt_logprobs=None if params.prompt_logprobs is None else [None, *request.prompt_logprobs],
            prompt_top_logprobs=[[], *request.prompt_top_logprobs] if params.prompt_logprobs else None,
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
        step: what the step brought; None in the prompt's last event.
        generation: set with the prompt's last event, which gains nothing else.
    """

    index: int
    step: StepOutput | None = None
    generation: Generation | None = None

    def __str__(self) -> str:
        """One line: the text that this step brought, or how the prompt ended."""
        if self.generation is not None:
            return f"prompt {self.index}: {self.generation}"
        count = len(self.token_ids)
        drafted = f"; {self.drafter}: {len(self.path)} of {len(self.draft)} accepted" if len(self.draft) else ""
        return f"prompt {self.index}: {shown(self.text)} ({count} token{'s' * (count != 1)}{drafted})"

    @property
    def pieces(self) -> list[TextPiece]:
        """Text that became certain."""
        return self.step.pieces if self.step is not None else []

    @property
    def text(self) -> str:
        """The pieces' text."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def token_ids(self) -> list[int]:
        """Tokens that were appended."""
        return self.step.token_ids if self.step is not None else []

    @property
    def draft(self) -> DraftTree:
        """What the target verified in the step."""
        return self.step.draft if self.step is not None else DraftTree()

    @property
    def path(self) -> tuple[int, ...]:
        """Nodes of the draft that were accepted, first to last."""
        return self.step.path if self.step is not None else ()

    @property
    def drafter(self) -> str:
        """Who proposed it."""
        return self.step.drafter if self.step is not None else NOBODY


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
