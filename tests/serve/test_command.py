"""`specdec serve` as it is typed: a real socket, the official client, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hydra import compose, initialize_config_dir

from specdec import ConfigError, Goals, SamplingParams, SpeculativeGenerator
from specdec.commands.application import config_dir
from specdec.commands.serve import served
from specdec.serve.server import Server, bound
from specdec.serve.settings import Settings
from specdec.study.config import register
from specdec.testing.server import ServerProcess
from specdec.testing.tiny import save
from tests.serve.services import CHAT, TEMPLATE, service
from tests.toytokenizers import byte_level

OPTIONS = ["drafter=ngram", "policy=always", "engine.block_size=4", "engine.num_blocks=512"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, byte_level(), max_context=512)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its address."""
    with ServerProcess(str(folder), "name=tiny", *OPTIONS, *options) as server:
        yield server.process, server.url


def test_an_address_that_is_taken_is_refused() -> None:
    with bound("127.0.0.1", 0) as listener:
        listener.listen()
        with pytest.raises(ConfigError, match=r"cannot be used.*Give another port"):
            bound("127.0.0.1", listener.getsockname()[1])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="port"):
        Settings(port=70_000)
    with pytest.raises(ConfigError, match="drain_seconds"):
        Settings(drain_seconds=0)


def test_a_client_closes_an_idle_connection_before_the_server_does() -> None:
    """Else a call may be sent on a connection that is just being closed."""
    with service() as made:
        assert Server(made).config.timeout_keep_alive > (httpx.Limits().keepalive_expiry or 0) > 0


def test_goals_reach_the_engine() -> None:
    register()
    with initialize_config_dir(str(config_dir()), version_base=None):
        assert not served(compose("serve")).engine.goals
        assert served(compose("serve", ["goals.tpot_ms=40"])).engine.goals == Goals(tpot_ms=40)
        with pytest.raises(ConfigError, match=r"ttft_ms = 0\.0 cannot work"):
            served(compose("serve", ["goals.ttft_ms=0"]))


@pytest.mark.slow
def test_the_official_client_gets_pythons_texts(folder: Path) -> None:
    openai = pytest.importorskip("openai")
    from specdec.drafters.ngram import NgramDrafter
    from specdec.drafters.prediction import PredictionDrafter

    alone = SpeculativeGenerator.from_pretrained(str(folder), [NgramDrafter(), PredictionDrafter()])
    with server(folder, "api_key=secret", "goals.ttft_ms=100", "goals.tpot_ms=2") as (_, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="a")
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt="a", extra_body={"guided_json": [1]})
        assert refused.value.param == "guided_json"

        def ask(seed: int) -> tuple[str, str, str]:
            case: dict[str, Any] = {"temperature": 0.7 * (seed % 2), "seed": seed, "max_tokens": 20 + seed}
            chat = client.chat.completions.create(model="tiny", messages=CHAT, **case)
            stream = client.chat.completions.create(
                model="tiny", messages=CHAT, stream=True, stream_options={"include_usage": True}, **case
            )
            chunks = list(stream)
            assert chunks[-1].usage.completion_tokens == chat.usage.completion_tokens
            pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
            expected = alone.generate(CHAT, SamplingParams(**case))[0].text
            return chat.choices[0].message.content, "".join(pieces), expected

        with ThreadPoolExecutor(16) as pool:
            for whole, streamed, expected in pool.map(ask, range(32)):
                assert whole == streamed == expected
        predicted = alone.generate(CHAT, SamplingParams(max_tokens=30))[0].text
        answer = client.chat.completions.create(
            model="tiny", messages=CHAT, max_tokens=30, temperature=0,
            prediction={"type": "content", "content": predicted},
        )  # fmt: skip
        assert answer.choices[0].message.content == predicted
        assert answer.usage.completion_tokens_details.accepted_prediction_tokens > 0
        calls_a_tool(client)


def calls_a_tool(client: Any) -> None:
    """Whole, and as the client's own helper puts a stream together."""
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "count", "parameters": schema}}
    case: dict[str, Any] = {
        "model": "tiny", "messages": CHAT, "tools": [tool], "tool_choice": "required", "seed": 4, "max_tokens": 99,
    }  # fmt: skip
    whole = client.chat.completions.create(**case).choices[0]
    with client.chat.completions.stream(**case) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    for choice in (whole, streamed):
        [call] = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content or None) == ("tool_calls", None)
        assert call.function.name == "count"
        assert json.loads(call.function.arguments)["n"] in (1, 22)
    assert whole.message.tool_calls[0].function.arguments == streamed.message.tool_calls[0].function.arguments


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_sigterm_lets_what_runs_end(folder: Path, turn: int) -> None:
    with server(folder, "policy=always") as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        body = {"prompt": "a", "max_tokens": 300 + turn, "ignore_eos": True, "stream": True, "seed": turn}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert process.wait(60) in (0, 143, -signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.slow
def test_clients_that_drop_their_sockets_leave_nothing(folder: Path) -> None:
    with server(folder) as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        for turn in range(20):
            body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": bool(turn % 2)}
            if turn % 2:
                with client.stream("POST", "/v1/completions", json=body) as answer:
                    next(answer.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/completions", json=body, timeout=0.05)
        deadline = time.monotonic() + 60
        while "vllm:num_requests_running" in (text := client.get("/metrics").text):
            values = dict(
                line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("vllm:num_requests", "vllm:kv"))
            )
            if not any(map(float, values.values())):
                break
            assert time.monotonic() < deadline, values
