"""One request: its tokens, its text, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from specdec.engine.probe import Probe
from specdec.engine.text import TextStream
from specdec.foreign import STOPS
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform, SamplingParams
from specdec.stats import DecodingStats
from specdec.verify.base import Rule, StepKey

FinishReason = Literal["stop", "length", "error", "aborted"]


@dataclass(frozen=True)
class TextPiece:
    """Text that became certain with one token, and whether a drafter had proposed that token."""

    text: str
    drafted: bool


@dataclass(eq=False)
class Request:
    """A sequence that is being generated.

    Args:
        id: unique within the engine.
        prompt: token ids, at least one.
        params: sampling parameters.
        rule: the acceptance rule that judges this request's drafts.
        transform: logits → scores for this request.
        random: its random numbers.
        text: turns its tokens into text; None when the caller wants token ids alone.
        ends: token ids that end the text.
        max_length: no more tokens than this, prompt included.
        prediction: token ids that the user expects.
        probe: tokens below the prompt that are scored. The request ends when each of them has its log-probability, and
            no token is emitted; None for a request that generates.
        made: seconds by the engine's clock: when it came.
        first_at: when its first token was there, if the engine has goals; None before.
    """

    id: int
    prompt: list[int]
    params: SamplingParams
    rule: Rule
    transform: LogitsTransform
    random: RandomSource
    text: TextStream | None
    ends: frozenset[int]
    max_length: int
    prediction: tuple[int, ...] = ()
    probe: Probe | None = None
    tokens: list[int] = field(init=False)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    node_logprobs: list[float] = field(default_factory=list)
    """Of a probe: natural log-probability of each node after the prompt and the nodes above it."""
    stats: DecodingStats = field(default_factory=DecodingStats)
    overtaken: int = 0
    """Younger requests that have begun while it waits."""
    made: float = field(default_factory=perf_counter)
    first_at: float | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def output(self) -> list[int]:
        """Token ids generated so far."""
        return self.tokens[len(self.prompt) :]

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string that ended the text, or the one of `stop_token_ids` that did; None for any other end."""
        if self.finish_reason != "stop":
            return None
        if self.text is not None and self.text.stopped:
            return self.text.stopped_by
        return self.tokens[-1] if self.tokens[-1] in self.params.stop_token_ids else None

    @property
    def by_argmax(self) -> bool:
        """Whether the argmax of each row of logits is all that its next tokens depend on, and all that is reported."""
        plain = self.params.logprobs is None and self.probe is None
        return plain and self.rule.by_argmax and self.transform.identity

    @property
    def scores_prompt(self) -> bool:
        """Whether tokens of the prompt are still to be scored; the first has no row before it."""
        return self.params.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt) - 1

    def key(self) -> StepKey:
        """Random numbers of the step that starts after the committed tokens."""
        return StepKey(self.random, anchor=len(self.tokens))

    def max_depth(self, limit: int) -> int:
        """Longest branch worth drafting now: one token less than may still be emitted, since a step adds one itself.

        Depends on this request alone, so that its output cannot depend on the batch.
        """
        if self.params.num_draft_tokens is not None:
            limit = min(limit, self.params.num_draft_tokens)
        return max(0, min(limit, self.max_length - len(self.tokens) - 1))

    def commit(self, tokens: Sequence[int], num_drafted: int) -> list[TextPiece]:
        """Appends emitted tokens, of which the first `num_drafted` were proposed by the drafter.

        Stops at an end token, a stop string or the length limit; tokens after that are dropped.
        """
        pieces: list[TextPiece] = []
        for index, token in enumerate(tokens):
            self.tokens.append(token)
            self.transform.append([token])
            ends = token in self.ends
            if self.text is not None and (not ends or self.params.include_stop_str_in_output):
                pieces.append(TextPiece(self.text.append(token), index < num_drafted))
            if ends or (self.text is not None and self.text.stopped):
                self.finish_reason = "stop"
            if not self.finished and len(self.tokens) >= self.max_length:
                self.finish_reason = "length"
            if self.finished:
                break
        if self.finished:
            pieces.extend(self._rest())
        return [piece for piece in pieces if piece.text]

    def fail(self, error: Exception) -> list[TextPiece]:
        """Ends the request because of an error of its own."""
        self.finish_reason, self.error = "error", error
        return self._rest_if_any()

    def abort(self) -> list[TextPiece]:
        """Ends the request because nobody wants the rest."""
        self.finish_reason = "aborted"
        return self._rest_if_any()

    def _rest_if_any(self) -> list[TextPiece]:
        """The rest of a text that ends before its time. Its tokenizer may be the reason, and raise once more."""
        try:
            return self._rest()
        except STOPS:
            raise
        except BaseException:
            return []

    def _rest(self) -> list[TextPiece]:
        return [TextPiece(self.text.finish(), False)] if self.text is not None else []
