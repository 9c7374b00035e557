"""One call from its body to its answer: checks, a place in the queue, outputs, and a line in the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from specdec.engine.request import Request
from specdec.errors import SpecdecError
from specdec.generator import SpeculativeGenerator
from specdec.prompts.entry import Prompt
from specdec.serve.calls import Call, Reader
from specdec.serve.errors import ApiError
from specdec.serve.pieces import Choice, Piece
from specdec.serve.readings import Desk, Reading
from specdec.serve.shapes import Shape, speculation
from specdec.serve.vocabulary import Vocabulary
from specdec.stats import DecodingStats

LEFT = 499
"""In the log: the answer did not come to its end, since the client left or a text failed."""
LOG = logging.getLogger("specdec.serve.access")


class Answering:
    """Answers calls for texts.

    Args:
        generator: encodes prompts and makes requests.
        reader: reads bodies.
        desk: takes requests in.
        model: its name for clients.
        most_choices: of one call.
    """

    def __init__(
        self, generator: SpeculativeGenerator, reader: Reader, desk: Desk, model: str, most_choices: int
    ) -> None:
        self._generator, self._reader, self._desk = generator, reader, desk
        self._model, self._most_choices = model, most_choices
        self.vocabulary = Vocabulary(generator.tokenizer)

    async def begin(self, kind: str, body: Mapping[str, Any], id: str) -> Answer:
        """Checks a call and queues it.

        Args:
            kind: "chat" or "completion".
            body: of the call.
            id: of the answer.

        Raises:
            ApiError: if it is refused.
        """
        read: Callable[[Mapping[str, Any]], Call] = getattr(self._reader, kind)
        call = _understood(lambda: read(body))
        self.check_model(call.model)
        count = len(call.prompts) * call.params.n
        if count > self._most_choices:
            raise ApiError(
                400, f"{count} texts in one call; at most {self._most_choices} are taken. Send several.", "n"
            )
        with self._desk.reserved(count) as places:
            requests = await run_in_threadpool(lambda: _understood(lambda: self._requests(call)))
            texts = await run_in_threadpool(self._echoes, call, requests)
            self._desk.check_open()
            reading = places.begin(requests, bounded=call.stream)
        choices = [Choice(one, call, self.vocabulary, text) for one, text in zip(requests, texts, strict=True)]
        return Answer(call, reading, Shape(call, id, self._model, choices, self.vocabulary))

    def check_model(self, name: str) -> None:
        """Raises ApiError, 404, if a client asks for another model."""
        if name not in ("", self._model):
            raise ApiError(404, f"There is no model {name[:80]!r}. Ask for {self._model!r}.", "model")

    def encode(self, prompt: Prompt, plain: bool = False) -> list[int]:
        """Token ids of a prompt; a text without the tokenizer's special tokens if it is `plain`."""
        if plain and isinstance(prompt, str):
            prompt = self._generator.tokenizer.encode(prompt, add_special_tokens=False)
        return self._generator.encode(prompt)

    def _requests(self, call: Call) -> list[Request]:
        """All of a call's texts, or the refusal of the first that cannot be served."""
        make = self._generator.engine.make_request
        samples = call.params.samples()
        return [make(ids, one) for ids in [self.encode(p, call.plain) for p in call.prompts] for one in samples]

    def _echoes(self, call: Call, requests: list[Request]) -> list[str]:
        """What an echo of each request repeats."""
        if not call.echo:
            return [""] * len(requests)
        each = [prompt for prompt in call.prompts for _ in range(call.params.n)]
        return [
            prompt if isinstance(prompt, str) else self.vocabulary.decode(request.prompt)
            for prompt, request in zip(each, requests, strict=True)
        ]


class Answer:
    """A call that was taken in.

    Args:
        call: says what is wanted.
        reading: its outputs.
        shape: of what is sent.
    """

    def __init__(self, call: Call, reading: Reading, shape: Shape) -> None:
        self.call = call
        self._reading, self._shape = reading, shape
        self._ended: float | None = None

    async def whole(self) -> dict[str, Any]:
        """The answer in one body.

        Raises:
            ApiError: if a text did not end well.
        """
        pieces: list[list[Piece]] = [[] for _ in self._shape.choices]
        async for index, piece in self._pieces():
            pieces[index].append(piece)
        return self._shape.whole([Piece.joined(each) for each in pieces], self._metrics())

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer as server-sent events, as it comes. An error on the way is the last but one of them."""
        try:
            for index in range(len(self._shape.choices) if self.call.kind == "chat" else 0):
                yield _event(self._shape.role(index))
            seen = set[int]()
            async for index, piece in self._pieces():
                if piece:
                    yield _event(self._shape.chunk(index, piece, index not in seen))
                    seen.add(index)
            if self.call.usage:
                yield _event(self._shape.counts(self._metrics()))
        except ApiError as error:
            yield _event(error.body)
        yield "data: [DONE]\n\n"

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        outputs = self._reading.outputs()
        try:
            async for index, output in outputs:
                yield index, self._shape.choices[index].take(output)
            self._ended = time.monotonic()
        finally:
            await outputs.aclose()

    def end(self, id: str, status: int | None = None) -> None:
        """Aborts what still runs, and writes a line into the access log: no text of it.

        Args:
            id: of the call.
            status: that was answered; None is 200, or `LEFT` if the texts did not come to their end.
        """
        self._reading.abort()
        status = status or (200 if self._ended is not None else LEFT)
        stats = self._stats()
        now = time.monotonic()
        first = self._reading.first
        line = {
            "id": id,
            "kind": self.call.kind,
            "status": status,
            "stream": self.call.stream,
            "finish": [choice.request.finish_reason for choice in self._shape.choices],
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "output_tokens": stats.output_tokens,
            "tau": round(stats.mean_accepted_length, 3),
            "acceptance_rate": round(stats.acceptance_rate, 3),
            "first_token_ms": None if first is None else round(1e3 * (first - self._reading.began), 1),
            "total_ms": round(1e3 * (now - self._reading.began), 1),
        }
        LOG.info("%s", json.dumps(line))

    def _stats(self) -> DecodingStats:
        return DecodingStats.total(choice.request.stats for choice in self._shape.choices)

    def _metrics(self) -> dict[str, Any]:
        """Times in milliseconds, and of a single text what became of its drafts."""
        began, first, ended = self._reading.began, self._reading.first, self._ended
        metrics: dict[str, Any] = {}
        if first is not None and ended is not None:
            stats = self._stats()
            metrics["time_to_first_token_ms"] = 1e3 * (first - began)
            metrics["generation_time_ms"] = 1e3 * (ended - first)
            if ended > began:
                metrics["tokens_per_second"] = stats.output_tokens / (ended - began)
        if len(self._shape.choices) == 1:
            metrics["speculative_decoding"] = speculation(self._shape.choices[0].request.stats)
        return metrics


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _understood(read: Callable[[], Any]) -> Any:
    """What `read` returns; a refusal is the client's error."""
    try:
        return read()
    except ApiError:
        raise
    except SpecdecError as error:
        raise ApiError.bad(error) from error
