"""Several engines behind one router: here in one process, so that one can be lost at any message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from starlette.types import Message

from specdec.serve.app import Service
from specdec.serve.replicas.exposition import merged
from specdec.serve.replicas.ranking import BEGINNING, MOST_AHEAD, beginning, ranked
from specdec.serve.replicas.relay import answered
from specdec.serve.replicas.router import Lost, Router
from specdec.serve.settings import Settings
from tests.serve.services import CHAT, NAME, ask, events, generator, get, post, settle

BODY = {"prompt": "the quick brown fox jumps", "max_tokens": 24, "ignore_eos": True, "seed": 3, "temperature": 0.8}


class Here:
    """A replica in this process.

    Args:
        service: answers.
        lost_after: messages of an answer after which it is lost; None is never.
    """

    def __init__(self, service: Service, lost_after: int | None = None) -> None:
        self.service, self.lost_after = service, lost_after
        self.calls: list[str] = []
        self.closed = False

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        self.calls.append(scope["path"])
        sent = 0
        if self.lost_after == 0:
            raise Lost("it is gone")
        async for message in answered(self.service.app, scope, body):
            yield message
            sent += 1
            if sent == self.lost_after:
                raise Lost("it is gone")

    async def back(self) -> None:
        while self.lost_after is not None:
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self.closed = True


@contextmanager
def behind(count: int = 2, settings: Settings | None = None) -> Iterator[tuple[Router, list[Here]]]:
    """A router and its replicas, which must hold nothing afterwards."""
    with ExitStack() as stack:
        services = [Service(generator(), NAME, Settings(), number=number) for number in range(count)]
        for one in services:
            stack.callback(one.close)
        replicas = [Here(one) for one in services]
        yield Router(replicas, settings or Settings()), replicas
        for one in services:
            settle(one)
            assert one.generator.engine.scheduler.live == []
            assert one.generator.engine.cache.num_free_blocks == one.generator.engine.cache.num_blocks


def first(router: Router, **body: Any) -> int:
    """The replica that is asked for a call."""
    return ranked(beginning(json.dumps(body).encode()), [0, 0])[0]


def test_calls_with_one_beginning_go_to_one_replica() -> None:
    chat = [{"role": "system", "content": "You are a helpful assistant. " * 20}, {"role": "user", "content": "Hello"}]
    later = [*chat, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "And now?"}]
    bodies = [{"messages": chat}, {"messages": later}, {"messages": chat, "stream": True, "temperature": 1}]
    assert len({beginning(json.dumps(body).encode()) for body in bodies}) == 1
    ids = list(range(200))
    assert beginning(json.dumps({"prompt": ids}).encode()) == beginning(json.dumps({"prompt": [*ids, 7]}).encode())
    assert beginning(json.dumps({"prompt": "a" * 300}).encode()) == "None\0" + "a" * BEGINNING
    salted = {beginning(json.dumps({"messages": chat, "cache_salt": salt}).encode()) for salt in ("x", "y")}
    assert len(salted) == 2
    for nothing in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        assert beginning(nothing) == ""


def test_replicas_share_the_keys_and_a_lost_one_leaves_the_others_theirs() -> None:
    """Of 3,000 keys each of four has 750, with a standard deviation of 24; five of them are met once in 1e6."""
    keys = [str(number) for number in range(3000)]
    chosen = [ranked(key, [0] * 4)[0] for key in keys]
    assert all(abs(chosen.count(index) - 750) < 5 * 24 for index in range(4))
    for key, index in zip(keys, chosen, strict=True):
        order = ranked(key, [0] * 4, {2})
        assert sorted(order) == [0, 1, 2, 3]
        assert order[-1] == 2
        assert index in (2, order[0])


def test_a_busy_replica_is_left_alone() -> None:
    key = next(str(number) for number in range(99) if ranked(str(number), [0, 0])[0] == 0)
    assert ranked(key, [MOST_AHEAD, 0]) == [0, 1]
    assert ranked(key, [MOST_AHEAD + 1, 0]) == [1, 0]
    assert ranked(key, [MOST_AHEAD + 1, 0], {1}) == [0, 1]
    assert ranked(key, [MOST_AHEAD + 3, MOST_AHEAD + 2, 0])[0] == 2


def test_texts_are_those_of_one_server() -> None:
    with behind() as (router, replicas):
        direct = post(replicas[0].service, "/v1/completions", **BODY).json()["choices"]
        assert post(router, "/v1/completions", **BODY).json()["choices"] == direct
        pieces = events(post(router, "/v1/completions", **BODY, stream=True))
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == direct[0]["text"]
        call = {"messages": CHAT, "max_tokens": 4}
        mine = {"x-request-id": "mine"}
        answer = ask(router, lambda client: client.post("/v1/chat/completions", json=call, headers=mine))
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
        assert answer.json()["id"] == "chatcmpl-mine"
        assert [len(one.calls) for one in replicas].count(0) <= 1
        assert get(router, "/v1/models").json()["data"][0]["id"] == NAME
        assert get(router, "/health").status_code == 200


def test_what_one_server_refuses_is_refused() -> None:
    with behind(settings=Settings(api_key="secret", max_body_bytes=2000)) as (router, _):
        assert post(router, "/v1/completions", **BODY).status_code == 401
        key = {"authorization": "Bearer secret"}
        for path, body, status in [
            ("/v1/completions", {"prompt": "a" * 3000}, 413),
            ("/v1/completions", {"prompt": "a", "max_tokens": -1}, 400),
            ("/v1/completions", {"prompt": "a", "model": "another"}, 404),
            ("/v1/nothing", {}, 404),
        ]:
            answer = ask(router, lambda client, p=path, b=body: client.post(p, json=b, headers=key))  # type: ignore[misc]
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
        assert get(router, "/health").status_code == 200
        router.drain()
        assert get(router, "/v1/models", **key).status_code == 503


def test_a_call_whose_replica_is_lost_before_it_answers_goes_to_another() -> None:
    with behind() as (router, replicas):
        lost = first(router, **BODY)
        direct = post(replicas[1 - lost].service, "/v1/completions", **BODY).json()["choices"]
        replicas[lost].lost_after = 0

        async def both(client: httpx.AsyncClient) -> list[httpx.Response]:
            """The second call does not ask the lost one."""
            return [await client.post("/v1/completions", json=BODY) for _ in range(2)]

        for answer in ask(router, both):
            assert answer.json()["choices"] == direct
        assert [len(replicas[index].calls) for index in (lost, 1 - lost)] == [1, 2]


def test_a_call_is_given_to_two_replicas_at_most() -> None:
    with behind(3) as (router, replicas):
        for one in replicas:
            one.lost_after = 0
        answer = post(router, "/v1/completions", **BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, 503)
        assert "Send it again" in answer.json()["error"]["message"]
        assert sum(len(one.calls) for one in replicas) == 2


def test_a_replica_that_is_back_has_its_keys_again() -> None:
    with behind() as (router, replicas):
        lost = replicas[first(router, **BODY)]

        async def calls(client: httpx.AsyncClient) -> None:
            lost.lost_after = 0
            await client.post("/v1/completions", json=BODY)
            lost.lost_after = None
            while router._down:
                await asyncio.sleep(0.001)
            await client.post("/v1/completions", json=BODY)

        ask(router, calls)
        assert len(lost.calls) == 2


def test_a_stream_whose_replica_is_lost_ends_with_an_error() -> None:
    with behind() as (router, replicas):
        lost = replicas[first(router, **BODY)]
        lost.lost_after = 3  # its head and two events
        *pieces, error = events(post(router, "/v1/completions", **BODY, stream=True))
        assert len(pieces) == 2
        assert error["error"]["code"] == 503
        assert len(lost.calls) == 1
        assert sum(len(one.calls) for one in replicas) == 1


def test_a_client_that_leaves_ends_its_call_in_the_replica() -> None:
    """`behind` looks whether anything is left."""
    with behind() as (router, replicas):
        body = BODY | {"max_tokens": 400, "stream": True}

        async def leave() -> None:
            given = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
            begun = asyncio.Event()

            async def receive() -> Message:
                if given:
                    return given.pop()
                await begun.wait()
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                if message["type"] == "http.response.body":
                    begun.set()

            path = "/v1/completions"
            scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                     "headers": [], "http_version": "1.1", "scheme": "http", "root_path": ""}  # fmt: skip
            await router.app(scope, receive, send)

        asyncio.run(leave())
        made = replicas[first(router, **body)].service
        settle(made)
        settle(made)
        assert made.generator.engine.scheduler.live == []


def test_metrics_are_those_of_all_replicas() -> None:
    with behind() as (router, replicas):
        for one in replicas:
            post(one.service, "/v1/completions", **BODY)
        text = get(router, "/metrics").text
        assert text.count("# HELP vllm:generation_tokens_total") == 1
        lines = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{")]
        assert lines == [f'vllm:generation_tokens_total{{engine="{n}",model_name="{NAME}"}} 24.0' for n in (0, 1)]
        parsed = {line.split("{")[0] for line in text.splitlines() if line and not line.startswith("#")}
        alone = get(replicas[0].service, "/metrics").text
        assert parsed == {line.split("{")[0] for line in alone.splitlines() if line and not line.startswith("#")}


def test_a_metric_is_named_once() -> None:
    one = '# HELP a A.\n# TYPE a counter\na{n="0"} 1\n# HELP b B.\n# TYPE b gauge\nb{n="0"} 2\n'
    two = '# HELP b B.\n# TYPE b gauge\nb{n="1"} 3\n# HELP c C.\n# TYPE c gauge\nc{n="1"} 4\n'
    assert merged([one, two]).splitlines() == [
        "# HELP a A.", "# TYPE a counter", 'a{n="0"} 1', "# HELP b B.", "# TYPE b gauge", 'b{n="0"} 2', 'b{n="1"} 3',
        "# HELP c C.", "# TYPE c gauge", 'c{n="1"} 4',
    ]  # fmt: skip
    assert merged([]) == ""


def test_closing_the_door_closes_all_replicas() -> None:
    with behind() as (router, replicas):
        router.close()
        assert all(one.closed for one in replicas)
