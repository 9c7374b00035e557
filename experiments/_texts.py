"""Recorded texts: what the target said to some prompts, greedily, and which tokens it thought of at each place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specdec import DraftRequest, DraftTree, EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Drafter, Needs, Outcome, TargetHandle
from specdec.errors import ConfigError
from specdec.models.loading import LoadedModel
from specdec.prompts import PromptRecord
from specdec.prompts.files import read as read_rows

TOP = 8


@dataclass(frozen=True)
class Text:
    """One request.

    Args:
        category: of its prompt.
        prompt, answer: token ids.
        top: for each token of the answer the ids of the `TOP` largest logits of the row that gave it, largest first.
    """

    category: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    top: tuple[tuple[int, ...], ...]


class Listener(Drafter):
    """Drafts nothing, and writes down what the target thought of."""

    name = "listener"

    def __init__(self) -> None:
        super().__init__(1)
        self.top: dict[int, list[tuple[int, ...]]] = {}
        self.texts: dict[int, Sequence[int]] = {}

    def bind(self, target: TargetHandle) -> Needs:
        """Asks for the largest logits' ids."""
        return Needs(top=TOP)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Empty trees."""
        return [DraftTree() for _ in requests]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """One row for each token."""
        for outcome in outcomes:
            if outcome.top is not None and len(outcome.tokens):
                self.top.setdefault(outcome.request_id, []).append(tuple(outcome.top[0].tolist()))

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Keeps the text."""
        self.texts[request_id] = tokens


def record(loaded: LoadedModel, prompts: Iterable[PromptRecord], max_tokens: int = 128) -> list[Text]:
    """Decodes the prompts' first turns, greedily and without drafts."""
    listener, records = Listener(), list(prompts)
    config = EngineConfig(max_num_seqs=8)
    with SpeculativeGenerator(loaded, listener, config=config, policy="always") as generator:
        encoded = [generator.encode([{"role": "user", "content": one.prompt}]) for one in records]
        requests = [generator.loop.engine.make_request(ids, SamplingParams(max_tokens=max_tokens)) for ids in encoded]
        for request in requests:
            generator.loop.submit(request)
        for _ in generator.loop.outputs(requests):
            pass
    return [
        Text(
            one.category or "",
            tuple(ids),
            tuple(listener.texts[request.id][len(ids) :]),
            tuple(listener.top[request.id]),
        )
        for one, ids, request in zip(records, encoded, requests, strict=True)
    ]


def save(texts: Iterable[Text], file: Path) -> None:
    """JSON lines, one a text."""
    file.write_text("".join(json.dumps(asdict(text)) + "\n" for text in texts), encoding="utf-8")


def read(file: Path) -> list[Text]:
    """What `save` wrote.

    Raises:
        ConfigError: if the file holds anything else.
    """
    try:
        return [_text(row) for row in read_rows(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} holds no recorded texts ({error}). Make some with record={file}.") from error


def _text(row: Any) -> Text:
    top = tuple(tuple(map(int, ids)) for ids in row["top"])
    text = Text(str(row["category"]), tuple(map(int, row["prompt"])), tuple(map(int, row["answer"])), top)
    if not text.prompt or not text.answer or len(top) != len(text.answer):
        raise ValueError("a text has a prompt, an answer, and a row of `top` for each token of the answer")
    return text
