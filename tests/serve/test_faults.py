"""Clients that leave, do not read, or come in crowds; engines that break. Nothing hangs, and nothing is kept.

`services.service` looks at the end that no request is left and that every block of the cache is free.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from specdec.serve import http
from specdec.serve.app import Service
from specdec.serve.settings import Settings
from tests.serve import services
from tests.serve.services import CHAT, ask, events, get, post, settle

TEXTS, CHATS = "/v1/completions", "/v1/chat/completions"
LONG = {"max_tokens": 200, "ignore_eos": True, "seed": 1}


class Caller:
    """One call as an ASGI server makes it, with a client that leaves when it is told to."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [],
            "client": ("test", 1), "server": ("test", 80),
        }  # fmt: skip
        self._body = [json.dumps(body).encode()]
        self.gone, self.got = asyncio.Event(), asyncio.Event()
        self.data, self.status = b"", 0
        self.reads = asyncio.Event()
        """While it is not set, the client takes nothing more."""
        self.reads.set()

    async def receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.data += message.get("body", b"")
        if b"content" in self.data or b'"text":' in self.data:
            self.got.set()
        await self.reads.wait()


def run(service: Service, path: str, body: dict[str, Any], do: Callable[[Caller], Awaitable[None]]) -> Caller:
    """A call, and what its client does meanwhile."""

    async def both() -> Caller:
        caller = Caller(path, body)
        await asyncio.wait_for(asyncio.gather(service.app(caller.scope, caller.receive, caller.send), do(caller)), 60)
        return caller

    return asyncio.run(both())


def running(service: Service) -> int:
    settle(service)
    return len(service.generator.engine.scheduler.live)


@pytest.mark.parametrize("turn", range(3))
def test_a_client_that_leaves_a_stream_ends_its_request(turn: int) -> None:
    async def leave(caller: Caller) -> None:
        await caller.got.wait()
        caller.gone.set()

    with services.service() as service:
        caller = run(service, CHATS, {"messages": CHAT, "stream": True, "n": 1 + turn, **LONG}, leave)
        assert caller.status == 200
        assert b"[DONE]" not in caller.data
        assert running(service) == 0
        assert post(service, TEXTS, prompt="a", max_tokens=2).status_code == 200


def test_a_client_that_leaves_before_its_answer_ends_its_request() -> None:
    with services.service() as service:

        async def leave(caller: Caller) -> None:
            while not service.generator.engine.scheduler.live:
                await asyncio.sleep(0)
            caller.gone.set()

        run(service, TEXTS, {"prompt": ["a", "b"], **LONG}, leave)
        assert running(service) == 0


def test_a_client_that_does_not_read_is_aborted() -> None:
    with services.service(Settings(max_unread=3)) as service:

        async def stall(caller: Caller) -> None:
            await caller.got.wait()
            caller.reads.clear()
            while service.generator.engine.scheduler.live:
                await asyncio.sleep(0)
            caller.reads.set()

        caller = run(service, TEXTS, {"prompt": "a", "stream": True, **LONG}, stall)
        *_, error, done = [frame for frame in caller.data.decode().split("\n\n") if frame]
        assert "did not read" in json.loads(error.removeprefix("data: "))["error"]["message"]
        assert done == "data: [DONE]"


def test_a_full_queue_is_a_429_and_places_come_back() -> None:
    with services.service(Settings(max_waiting=1), max_num_seqs=1, max_batch_tokens=64) as service:

        async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
            return await asyncio.gather(
                *(client.post(TEXTS, json={"prompt": "a", "max_tokens": 20}) for _ in range(12))
            )

        for _ in range(3):
            answers = ask(service, crowd)
            taken = [answer for answer in answers if answer.status_code == 200]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert (len(taken), len(refused)) == (2, 10)
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert refused[0].json()["error"]["type"] == "RateLimitError"
        assert post(service, TEXTS, prompt=["a", "b", "c"]).status_code == 400  # never so many places
        told = services.get(service, "/metrics").text
        assert 'specdec_refused_texts_total{engine="0",model_name="tiny"} 30.0' in told


def test_refused_calls_leave_no_place_taken() -> None:
    with services.service(Settings(max_waiting=0), max_num_seqs=1, max_batch_tokens=64) as service:
        for _ in range(5):
            assert post(service, TEXTS, prompt="x" * 3000).status_code == 400
        assert post(service, TEXTS, prompt="a", max_tokens=1).status_code == 200


@pytest.mark.parametrize("parts", [5, 10**9])
def test_a_body_that_is_too_large_is_read_to_its_end_unless_that_is_far(parts: int) -> None:
    """A client that sends before it reads gets its answer; one that sends for ever loses its connection."""
    with services.service(Settings(max_body_bytes=1024)) as service:
        caller = Caller(TEXTS, {})
        left = [parts]

        async def receive() -> dict[str, Any]:
            left[0] -= 1
            return {"type": "http.request", "body": b"a" * 256, "more_body": left[0] > 0}

        headers: dict[bytes, bytes] = {}

        async def send(message: dict[str, Any]) -> None:
            headers.update(message.get("headers", []))
            await caller.send(message)

        asyncio.run(asyncio.wait_for(service.app(caller.scope, receive, send), 60))
        assert (caller.status, headers[b"connection"]) == (413, b"close")
        assert left[0] == max(0, parts - 17)


def break_passes(service: Service, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The target fails so many times."""
    model, left = service.generator.engine.model, [times]
    passes = model.run

    def fail(*args: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("the device is gone")
        return passes(*args, **options)

    monkeypatch.setattr(model, "run", fail)


@pytest.mark.parametrize("stream", [False, True])
def test_a_pass_that_fails_ends_what_ran_and_shows_in_health(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with services.service() as service:
        break_passes(service, monkeypatch, times=1)
        answer = post(service, TEXTS, prompt="a", max_tokens=4, stream=stream)
        if stream:
            assert "the device is gone" in events(answer)[-1]["error"]["message"]
        else:
            assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
        settle(service)
        health = get(service, "/health")
        assert health.status_code == 503
        assert "the device is gone" in health.json()["error"]["message"]
        assert post(service, TEXTS, prompt="a", max_tokens=4).status_code == 200  # and it goes on
        settle(service)
        assert get(service, "/health").status_code == 200


def test_an_engine_that_is_broken_for_good_answers_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(services.generator(), services.NAME)
    monkeypatch.setattr(service.generator.engine, "mend", lambda: 1 / 0)
    assert post(service, TEXTS, prompt="a").status_code == 500
    assert get(service, "/health").status_code == 503
    assert post(service, CHATS, messages=CHAT).status_code == 503
    service.close()


def test_one_request_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokenizer raises in the middle of its text."""
    with services.service() as service:
        make = service.generator.engine.make_request

        def hostile(prompt: list[int], params: Any) -> Any:
            request = make(prompt, params)
            if params.seed == 666:
                monkeypatch.setattr(request.text, "append", lambda token: 1 / 0)
            return request

        monkeypatch.setattr(service.generator.engine, "make_request", hostile)

        async def neighbours(client: httpx.AsyncClient) -> list[httpx.Response]:
            bodies = [{"prompt": "a", "max_tokens": 12, "seed": seed} for seed in (1, 666, 2)]
            return await asyncio.gather(*(client.post(TEXTS, json=body) for body in bodies))

        one, failed, two = ask(service, neighbours)
        assert failed.status_code == 500
        for seed, answer in ((1, one), (2, two)):
            alone = post(service, TEXTS, prompt="a", max_tokens=12, seed=seed)
            assert answer.json()["choices"] == alone.json()["choices"]
        assert get(service, "/health").status_code == 200


def test_a_server_that_shuts_down_takes_nothing_in_and_ends_what_runs() -> None:
    with services.service() as service:

        async def drain(caller: Caller) -> None:
            await caller.got.wait()
            service.desk.draining = True
            transport = httpx.ASGITransport(service.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                assert (await client.get("/health")).status_code == 503
                assert (await client.post(TEXTS, json={"prompt": "a"})).status_code == 503

        caller = run(service, CHATS, {"messages": CHAT, "stream": True, "max_tokens": 20}, drain)
        assert caller.data.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in caller.data or b'"finish_reason":"stop"' in caller.data


def test_silence_is_filled_with_comments() -> None:
    async def slow() -> Any:
        yield "data: 1\n\n"
        await asyncio.sleep(0.05)
        yield "data: 2\n\n"

    async def collect() -> list[str]:
        caller = Caller(TEXTS, {})
        sent = list[str]()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message.get("body", b"").decode())

        ended = asyncio.Event()
        await http.EventStream(slow(), ended.set, silence=0.01)(caller.scope, caller.receive, send)
        assert ended.is_set()
        return sent[1:-1]

    found = asyncio.run(collect())
    assert (found[0], found[-1]) == ("data: 1\n\n", "data: 2\n\n")
    assert set(found[1:-1]) == {": keep-alive\n\n"}


def test_the_log_has_a_line_a_call_and_no_text_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "specdec.serve.access"), services.service() as service:
        secret = "unbelievable Gipfeln"
        for stream in (False, True):
            post(service, TEXTS, prompt=secret, max_tokens=5, ignore_eos=True, stream=stream)
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "specdec.serve.access"]
    assert [line["stream"] for line in lines] == [False, True]
    for line in lines:
        assert (line["status"], line["output_tokens"], line["finish"]) == (200, 5, ["length"])
        assert line["tau"] >= 1
        assert line["total_ms"] >= line["first_token_ms"] > 0
    assert secret.split()[1] not in caplog.text


@pytest.mark.slow
def test_thousands_of_calls_leave_nothing_behind() -> None:
    with services.service(Settings(max_waiting=8)) as service:

        async def storm(client: httpx.AsyncClient) -> list[int]:
            bodies = [{"prompt": "a b", "max_tokens": 1 + place % 3, "seed": place} for place in range(2000)]
            gate = asyncio.Semaphore(12)

            async def one(body: dict[str, Any]) -> int:
                async with gate:
                    return (await client.post(TEXTS, json=body)).status_code

            return await asyncio.gather(*map(one, bodies))

        assert set(ask(service, storm)) == {200}
        loop = service.generator.loop
        settle(service)
        assert (loop._listeners, loop._mail, service.desk._taken) == ({}, {}, 0)
