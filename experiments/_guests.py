"""Requests whose texts are known beforehand, and a client that asks for them over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import httpx

from specdec import SamplingParams, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter

PATH = "/v1/completions"
PROMPTS = (
    "Count: 1 2 3 1 2 3 1 2 3",
    "The quick brown fox jumps over the lazy dog. The quick brown",
    "def f(x):\n    return x\n\ndef g(x):\n    return",
    "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du",
)
RETRIES = 2000
"""Of a request that was refused since the queue is full."""
PAUSE = 0.02
"""Seconds before the next try."""


class Fate(Enum):
    """What became of a request."""

    SAME = "same"
    """Its tokens and log-probabilities are those that Python gives, bit for bit."""
    OTHER = "other"
    LOST = "lost"
    """There was no whole answer."""


@dataclass(frozen=True)
class Known:
    """A request and its answer.

    Args:
        body: of the call.
        tokens: of the text.
        logprobs: natural, of each of them.
    """

    body: dict[str, Any]
    tokens: list[int]
    logprobs: list[float]

    def matches(self, choices: Sequence[dict[str, Any]]) -> bool:
        """Whether these pieces of an answer are together the known one."""
        tokens = [token for choice in choices for token in choice["token_ids"]]
        logprobs = [value for choice in choices for value in choice["logprobs"]["token_logprobs"]]
        return (tokens, logprobs) == (self.tokens, self.logprobs)


def known(model: Path, max_tokens: int) -> list[Known]:
    """Greedy and sampled requests with the answers that the Python API gives to each alone, without a draft.

    Args:
        model: folder of the target.
        max_tokens: of each text.
    """
    found = []
    with SpeculativeGenerator.from_pretrained(str(model), NgramDrafter()) as alone:
        for seed, prompt in enumerate(PROMPTS):
            case: dict[str, Any] = {
                "max_tokens": max_tokens + seed, "temperature": 0.8 * (seed % 2), "seed": seed, "ignore_eos": True,
                "num_draft_tokens": 0, "logprobs": 0,
            }  # fmt: skip
            [one] = alone.generate(prompt, SamplingParams(**case))
            body = {**case, "prompt": prompt, "return_token_ids": True, "num_draft_tokens": 4}
            found.append(Known(body, one.token_ids, one.logprobs or []))
    return found


class Guest:
    """Asks a server.

    Args:
        http: with the server's address.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def fate(self, one: Known, stream: bool, begun: asyncio.Event | None = None) -> Fate:
        """What becomes of a request; one that is refused with 429 asks again, as the official client does.

        Args:
            one: is asked for.
            stream: whether its answer comes in pieces.
            begun: is set with the first of them.
        """
        try:
            for _ in range(RETRIES):
                if (choices := await self._choices({**one.body, "stream": stream}, begun)) is not None:
                    return Fate.SAME if one.matches(choices) else Fate.OTHER
                await asyncio.sleep(PAUSE)
        except (httpx.HTTPError, KeyError, ValueError, TypeError):
            pass
        return Fate.LOST

    async def _choices(self, body: dict[str, Any], begun: asyncio.Event | None) -> list[dict[str, Any]] | None:
        """The pieces of an answer; None if the queue is full."""
        async with self.http.stream("POST", PATH, json=body) as answer:
            if answer.status_code == 429:
                return None
            answer.raise_for_status()
            if not body["stream"]:
                return list(json.loads(await answer.aread())["choices"])
            choices: list[dict[str, Any]] = []
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return choices
                if line.startswith("data: "):
                    choices += json.loads(line.removeprefix("data: "))["choices"]
                    if begun is not None:
                        begun.set()
        raise ValueError("The stream has no end.")
