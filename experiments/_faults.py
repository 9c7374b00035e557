"""Calls that leave, crowd, overflow or mean harm; each returns how many answers were not as docs/serving.md says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx

from experiments._guests import PATH, Guest

Fault = Callable[[Guest, int], Awaitable[int]]
LONG = {"prompt": "a b a b", "max_tokens": 1500, "ignore_eos": True}
CROWD = 100
"""Calls at once; the server has places for a part of them."""
MOST_BODY = 4 << 20
"""Bytes, the server's default."""
REFUSED = (400,)


async def leave_a_stream(guest: Guest, turn: int) -> int:
    """Clients that go after the first piece."""

    async def leave(seed: int) -> int:
        body = {**LONG, "seed": seed, "stream": True, "n": 1 + turn % 3}
        async with guest.http.stream("POST", PATH, json=body) as answer:
            async for line in answer.aiter_lines():
                if line:
                    break
            return int(answer.status_code != 200)

    return sum(await asyncio.gather(*map(leave, range(3))))


async def leave_before_the_answer(guest: Guest, turn: int) -> int:
    """Clients that go while the answer is made, or before it is begun."""

    async def leave(seed: int) -> int:
        body = {**LONG, "seed": seed, "n": 1 + turn % 3}
        with suppress(httpx.ReadTimeout):
            await guest.http.post(PATH, json=body, timeout=httpx.Timeout(60, read=0.01 + 0.02 * seed))
            return 1  # it cannot be there already
        return 0

    return sum(await asyncio.gather(*map(leave, range(3))))


async def crowd(guest: Guest, turn: int) -> int:
    """More calls than there are places."""

    async def come(seed: int) -> tuple[bool, bool]:
        answer = await guest.http.post(PATH, json={"prompt": "a", "max_tokens": 32, "ignore_eos": True, "seed": seed})
        if answer.status_code == 429:
            return int(answer.headers["retry-after"]) >= 1, True
        return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 32, False

    came = await asyncio.gather(*map(come, range(CROWD)))
    return sum(not good for good, _ in came) + (not any(refused for _, refused in came))


async def overflow(guest: Guest, turn: int) -> int:
    """Bodies, prompts and lists that are too large."""

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        while True:
            yield b"a" * (1 << 16)

    posts: list[tuple[Any, int]] = [
        (json.dumps({"prompt": "a" * MOST_BODY}).encode(), 413),
        (endless(), 413),
        (json.dumps({"prompt": "a b " * 20_000}).encode(), 400),
        (json.dumps({"prompt": ["a"] * 1000}).encode(), 400),
        (json.dumps({"prompt": "a", "n": 10**6}).encode(), 400),
        (json.dumps({"prompt": "a", "stop": ["x"] * 10**5}).encode(), 400),
        (json.dumps({"prompt": "a", "logprobs": 10**9}).encode(), 400),
    ]
    return sum([await _unlike(guest, content, (status,)) for content, status in posts])


async def harm(guest: Guest, turn: int) -> int:
    """Neighbours that mean harm, all at once."""
    answers = [_unlike(guest, content, statuses) for content, statuses in HARMFUL]
    return sum(await asyncio.gather(*answers))


async def nothing(guest: Guest, turn: int) -> int:
    """What is wrong is elsewhere."""
    return 0


async def _unlike(guest: Guest, content: Any, statuses: tuple[int, ...]) -> int:
    """1 if a body is not answered by one of these; an error must be OpenAI's."""
    try:
        answer = await guest.http.post(PATH, content=content, headers={"content-type": "application/json"})
    except (httpx.WriteError, httpx.ReadError):
        return int(413 not in statuses)  # the rest of an oversized body is not read, and some systems reset then
    if answer.status_code not in statuses:
        return 1
    return int(answer.status_code != 200 and not answer.json()["error"]["message"])


def _body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a b", "max_tokens": 4, "seed": 1, **fields}).encode()


def _grammar(text: str) -> bytes:
    return _body(structured_outputs={"grammar": text})


SERVED = (200,)
ANY = (200, 400)
"""Either may be right: what matters is that nobody else notices."""
HARMFUL: list[tuple[bytes, tuple[int, ...]]] = [
    (_body(logit_bias={str(token): 100 for token in range(49_000)}), ANY),
    (_body(logit_bias={"5": 100, "6": -100}), SERVED),
    (_body(logit_bias={"5": 1e300}), REFUSED),
    (_body(logit_bias={str(10**8): 1}), REFUSED),
    (b'{"prompt": "a", "logit_bias": {"5": NaN}}', REFUSED),
    (b'{"prompt": "a", "logit_bias": {"5": 1e999}}', REFUSED),
    (_body(allowed_token_ids=[]), REFUSED),
    (_body(allowed_token_ids=[7], bad_words=["the"]), ANY),
    (_grammar("root ::= ("), REFUSED),
    (_grammar("root ::= root"), ANY),
    (_grammar("start: /(/"), REFUSED),
    (_body(structured_outputs={"regex": "((a{1,999}){1,999}){1,999}"}), ANY),
    (_body(structured_outputs={"regex": "["}), REFUSED),
    (_body(structured_outputs={"json": {"$ref": "#/nowhere"}}), REFUSED),
    (_body(structured_outputs={"json": {"$ref": "#"}}), ANY),
    (_body(structured_outputs={"json_object": False}), ANY),
    (b'{"prompt": "\xff\xfe\x80", "max_tokens": 4}', REFUSED),
    (b"\xff\xfe\x00{", REFUSED),
    (b'{"prompt": "\\ud800 a", "max_tokens": 4}', ANY),
    (b'{"prompt": "\\u0000", "max_tokens": 4}', SERVED),
    (b"[" * 200_000, REFUSED),
    (b'{"prompt": ' + b'{"a":' * 50_000, REFUSED),
    (b'{"prompt": [99999999]}', REFUSED),
    (b"", REFUSED),
]
"""Bodies, and the statuses that they may be answered with."""
