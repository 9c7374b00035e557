"""What the choices of an answer gain, before it has a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.serve.calls import Call
from specdec.serve.errors import ApiError
from specdec.serve.vocabulary import Vocabulary

Tops = list[tuple[int, float]]


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability; None for the first of a prompt, which follows nothing.

    Args:
        token: id.
        logprob: natural, under the model itself, before temperature, penalties and bans.
        tops: the most probable tokens in its place, with theirs.
        offset: characters before it.
    """

    token: int
    logprob: float | None
    tops: Tops
    offset: int


@dataclass(frozen=True)
class Piece:
    """What a choice gained at once.

    Args:
        text: that became certain.
        tokens: ids that were generated.
        scored: the same tokens with their log-probabilities, if they are wanted; before them those of an echoed prompt.
        finish: "stop" or "length" in the last one.
        steps: in which it was gained, if they are wanted.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    finish: str | None = None
    steps: list[StepOutput] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.text or self.tokens or self.scored or self.finish)

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """All that a choice gained."""
        return cls(
            "".join(piece.text for piece in pieces),
            [token for piece in pieces for token in piece.tokens],
            [one for piece in pieces for one in piece.scored],
            pieces[-1].finish if pieces else None,
            [step for piece in pieces for step in piece.steps],
        )


class Choice:
    """One text of an answer, as it grows.

    Args:
        request: generates it.
        call: says what is wanted of it.
        vocabulary: names tokens.
        prompt: text of the prompt, which an echo repeats.
    """

    def __init__(self, request: Request, call: Call, vocabulary: Vocabulary, prompt: str) -> None:
        self.request = request
        self._call, self._vocabulary = call, vocabulary
        self._echo: str | None = prompt if call.echo else None
        """What is still to be repeated."""
        self._offset = 0

    def take(self, output: StepOutput) -> Piece:
        """What an output brings.

        Raises:
            ApiError: if the request did not end well.
        """
        if output.finish_reason == "error":
            raise ApiError(500, f"The text could not be finished. {self.request.error}")
        if output.finish_reason == "aborted":
            raise ApiError(503, "The text was aborted: its client did not read, or the server is shutting down.")
        wanted = self._call.params.logprobs is not None
        text, scored = "", list[Scored]()
        if self._echo is not None:
            text, self._echo = self._echo, None
            scored = self._prompt() if wanted else []
        if self._call.silent:
            return Piece(text, [], scored, output.finish_reason)
        text += "".join(piece.text for piece in output.pieces)
        if wanted:
            tops = output.top_logprobs or [[]] * len(output.token_ids)
            scored += self._scored(output.token_ids, output.logprobs, tops)
        steps = [output] if self._call.steps and output.token_ids else []
        return Piece(text, output.token_ids, scored, output.finish_reason, steps)

    def _prompt(self) -> list[Scored]:
        """Of an echo. The prompt was read before the first token was there, and so are its scores."""
        request = self.request
        tops = request.prompt_top_logprobs or [[]] * (len(request.prompt) - 1)
        return self._scored(request.prompt, [None, *request.prompt_logprobs], [[], *tops])

    def _scored(self, tokens: Sequence[int], logprobs: Sequence[float | None], tops: Sequence[Tops]) -> list[Scored]:
        scored = []
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True):
            scored.append(Scored(token, logprob, top, self._offset))
            self._offset += len(self._vocabulary.text(token))
        return scored
