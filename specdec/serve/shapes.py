"""The JSON of answers, as OpenAI's and vLLM's clients read it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from specdec.engine.outputs import StepOutput
from specdec.serve.calls import Call
from specdec.serve.pieces import Choice, Piece, Scored, Tops
from specdec.serve.tools import CallReader
from specdec.serve.vocabulary import Vocabulary
from specdec.stats import DecodingStats

LEAST = -9999.0
"""Stands for a log-probability of minus infinity, which JSON cannot hold."""


class Shape:
    """The answer of one call.

    Args:
        call: says what is wanted.
        id: of the answer.
        model: as clients name it.
        choices: its texts, by prompt, then by seed.
        vocabulary: names tokens.
    """

    def __init__(self, call: Call, id: str, model: str, choices: Sequence[Choice], vocabulary: Vocabulary) -> None:
        self.choices, self._call, self._vocabulary = choices, call, vocabulary
        self._chat = call.kind == "chat"
        self._head = {"id": id, "object": "", "created": int(time.time()), "model": model}
        self._calls = [CallReader(call.tools, f"call_{id}_{n}") for n in range(len(choices))] if call.tools else None

    def whole(self, pieces: Sequence[Piece], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """An answer in one body, of one piece for each choice."""
        choices = [self._choice(index, piece, "message") for index, piece in enumerate(pieces)]
        name = "chat.completion" if self._chat else "text_completion"
        body = {**self._head, "object": name, "choices": choices, "usage": self.usage()}
        if (scores := self._prompt_logprobs()) is not None:
            body["prompt_logprobs"] = scores
        return {**body, "metrics": dict(metrics)}

    def role(self, index: int) -> dict[str, Any]:
        """The first piece of a streamed choice of a chat."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, index: int, piece: Piece, first: bool) -> dict[str, Any]:
        """A piece of a streamed choice."""
        choice = self._choice(index, piece, "delta")
        if not first:
            choice.pop("prompt_token_ids", None)
        return self._chunk([choice], self.usage() if self._call.usage_always else None)

    def counts(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The last piece of a stream: no choice, and the usage."""
        return {**self._chunk([], self.usage()), "metrics": dict(metrics)}

    def usage(self) -> dict[str, Any]:
        """Tokens so far. A prompt counts once, however many texts it has."""
        firsts = self.choices[:: self._call.params.n]
        prompt = sum(len(choice.request.prompt) for choice in firsts)
        generated = 0 if self._call.silent else sum(len(choice.request.output) for choice in self.choices)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": sum(one.request.stats.cached_tokens for one in firsts)},
        }
        if self._call.params.prediction is not None:
            usage["completion_tokens_details"] = self._predicted()
        return usage

    def _predicted(self) -> dict[str, int]:
        """Tokens that the drafter of predictions proposed, and what became of them."""
        of = [
            entry for choice in self.choices for entry in choice.request.stats.by_drafter if entry.name == "prediction"
        ]
        accepted = sum(entry.accepted_tokens for entry in of)
        rejected = sum(entry.drafted_tokens for entry in of) - accepted
        return {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected}

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        name = "chat.completion.chunk" if self._chat else "text_completion"
        chunk = {**self._head, "object": name, "choices": choices}
        return chunk if usage is None else {**chunk, "usage": usage}

    def _choice(self, index: int, piece: Piece, holder: str) -> dict[str, Any]:
        reason = self.choices[index].request.stop_reason if piece.finish else None
        choice: dict[str, Any] = {
            "index": index,
            "logprobs": None,
            "finish_reason": piece.finish,
            "stop_reason": reason,
        }
        if not self._chat:
            choice["text"] = piece.text
        else:
            text, calls = self._said(index, piece, choice)
            choice[holder] = {"tool_calls": calls} if calls else {}
            if holder == "message":
                choice[holder] |= {"role": "assistant", "content": text if text or not calls else None}
            elif text:
                choice[holder]["content"] = text
        if self._call.params.logprobs is not None:
            choice["logprobs"] = self._chat_scores(piece.scored) if self._chat else self._scores(piece.scored)
        if self._call.token_ids:
            choice["token_ids"] = piece.tokens
            choice["prompt_token_ids"] = self.choices[index].request.prompt
        if self._call.steps:
            choice["steps"] = [_step(output) for output in piece.steps]
        return choice

    def _said(self, index: int, piece: Piece, choice: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """Content and calls of a piece. A whole call is how its choice ends."""
        if self._calls is None:
            return piece.text, []
        said = self._calls[index].read(piece.text, piece.finish is not None)
        if self._calls[index].complete and piece.finish == "stop":
            choice["finish_reason"] = "tool_calls"
        return said

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._call.names_ids else self._vocabulary.name(token)

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": self._name(token), "logprob": _finite(logprob), "bytes": list(self._vocabulary.bytes(token))}

    def _chat_scores(self, scored: Sequence[Scored]) -> dict[str, Any]:
        content = [
            {**self._entry(one.token, one.logprob), "top_logprobs": [self._entry(*top) for top in one.tops]}
            for one in scored
        ]
        return {"content": content, "refusal": None}

    def _scores(self, scored: Sequence[Scored]) -> dict[str, Any]:
        return {
            "tokens": [self._name(one.token) for one in scored],
            "token_logprobs": [_finite(one.logprob) for one in scored],
            "top_logprobs": [self._tops(one) for one in scored],
            "text_offset": [one.offset for one in scored],
        }

    def _tops(self, one: Scored) -> dict[str, float] | None:
        """By name, the token itself among them. None for a token that has no log-probability."""
        if one.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in [*one.tops, (one.token, one.logprob)]:
            found.setdefault(self._name(token), _finite(logprob) or 0.0)
        return found

    def _prompt_logprobs(self) -> list[dict[str, Any] | None] | None:
        """vLLM's: for each token of a single prompt, {id: how probable it and its rivals are}."""
        request = self.choices[0].request
        if self._call.echo or request.params.prompt_logprobs is None or len(self.choices) > 1:
            return None
        tops: Sequence[Tops] = request.prompt_top_logprobs or [[]] * (len(request.prompt) - 1)
        rows: list[dict[str, Any] | None] = [None]
        for token, logprob, top in zip(request.prompt[1:], request.prompt_logprobs, tops, strict=True):
            ranks: dict[int, tuple[float, int | None]] = {
                each: (value, place + 1) for place, (each, value) in enumerate(top)
            }
            ranks.setdefault(token, (logprob, None))
            rows.append(
                {
                    str(each): {"logprob": _finite(value), "rank": rank, "decoded_token": self._vocabulary.text(each)}
                    for each, (value, rank) in ranks.items()
                }
            )
        return rows


def speculation(stats: DecodingStats) -> dict[str, Any]:
    """What became of the drafts, as aiperf reads it: steps with a draft alone count, and entry j of the histogram is
    the steps that accepted exactly j tokens of it."""
    steps = stats.tested_at[0] if stats.tested_at else 0
    accepted = stats.accepted_tokens
    reached = [steps, *stats.accepted_at, 0]
    return {
        "mean_acceptance_length": 1 + accepted / steps if steps else 1.0,
        "draft_acceptance_rate": accepted / stats.drafted_tokens if stats.drafted_tokens else 0.0,
        "acceptance_histogram": [here - beyond for here, beyond in pairwise(reached)],
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": stats.drafted_tokens,
        "num_spec_tokens": len(stats.accepted_at),
    }


def _step(output: StepOutput) -> dict[str, Any]:
    """Who drafted in a step, what became of the draft, and which parts of the text it had proposed."""
    return {
        "drafter": output.drafter,
        "draft_tokens": len(output.draft),
        "accepted_tokens": len(output.path),
        "tokens": len(output.token_ids),
        "pieces": [{"text": piece.text, "drafted": piece.drafted} for piece in output.pieces],
    }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)
