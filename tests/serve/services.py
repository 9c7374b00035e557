"""A tiny model behind a server, asked without a network."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

from specdec import EngineConfig, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.prediction import PredictionDrafter
from specdec.models.loading import LoadedModel
from specdec.serve.app import Service
from specdec.serve.settings import Settings
from tests.tiny import llama
from tests.toytokenizers import byte_level

NAME = "tiny"
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [{"role": "user", "content": "the quick brown fox jumps, the quick brown"}]


@cache
def loaded() -> LoadedModel:
    """A random target of two layers with a tokenizer of bytes."""
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.chat_template = TEMPLATE
    return LoadedModel(llama(vocab_size=400), tokenizer, eos=(tokenizer.eos_token_id,))


def generator(**sizes: Any) -> SpeculativeGenerator:
    """Over it, with two drafters; one proposes trees."""
    drafters = [NgramDrafter(num_draft_tokens=4, min_match=1), PredictionDrafter(num_draft_tokens=4)]
    config = EngineConfig(**{"block_size": 4, "num_blocks": 512, "max_batch_tokens": 256, "max_num_seqs": 8, **sizes})
    return SpeculativeGenerator(loaded(), drafters, config=config)


@contextmanager
def service(settings: Settings | None = None, **sizes: Any) -> Iterator[Service]:
    """That is closed afterwards, when it must hold nothing."""
    made = Service(generator(**sizes), NAME, settings)
    try:
        yield made
    finally:
        made.close()
        assert made.generator.engine.scheduler.live == []
        made.generator.engine.cache.check_integrity()
        assert made.generator.engine.cache.num_free_blocks == made.generator.engine.cache.num_blocks


def settle(made: Service) -> None:
    """Waits until the engine is between two steps: an answer may be there before its step is over."""
    between = threading.Event()
    made.thread.order(between.set)
    assert between.wait(60)


def ask(made: Service, do: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine returns that is given a client."""

    async def run() -> Any:
        transport = httpx.ASGITransport(made.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            return await do(client)

    return asyncio.run(run())


def post(made: Service, path: str, **body: Any) -> httpx.Response:
    """One call."""
    return ask(made, lambda client: client.post(path, json=body))


def get(made: Service, path: str, **headers: str) -> httpx.Response:
    """One look."""
    return ask(made, lambda client: client.get(path, headers=headers))


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Of a stream, which must end as it should."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
