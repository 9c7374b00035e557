"""`specdec serve replicas=2` under Ray Serve: texts, and what becomes of calls when a replica is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from specdec.testing.server import ServerProcess
from specdec.testing.tiny import save
from tests.serve.services import TEMPLATE
from tests.toytokenizers import byte_level

pytest.importorskip("ray", reason="needs the extra 'ray'")
pytest.importorskip("grpc_reflection", reason="needs the extra 'ray'")
pytestmark = pytest.mark.slow

OPTIONS = ("name=tiny", "drafter=ngram", "policy=always", "engine.block_size=4", "engine.num_blocks=512")
CALLS: list[dict[str, Any]] = [
    {
        "prompt": f"{number} the quick brown fox",
        "max_tokens": 40,
        "ignore_eos": True,
        "seed": number,
        "temperature": 1.0,
    }
    for number in range(16)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, byte_level(), max_context=512)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with ServerProcess(str(folder), *OPTIONS, "replicas=2", seconds=600) as made:
        yield made
        made.terminate()
        assert made.process.wait(120) in (0, 143, -signal.SIGTERM)


@pytest.fixture(scope="module")
def texts(server: ServerProcess) -> list[str]:
    """Of all calls, one after the other."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        return [client.post("/v1/completions", json=call).json()["choices"][0]["text"] for call in CALLS]


def text(url: str, call: dict[str, Any]) -> str | None:
    """What is answered; None if its replica was lost."""
    answer = httpx.post(f"{url}/v1/completions", json=call, timeout=300)
    if answer.status_code == 503:
        assert "Send it again" in answer.json()["error"]["message"]
        return None
    assert answer.status_code == 200
    return str(answer.json()["choices"][0]["text"])


def test_both_replicas_answer_and_all_texts_are_the_same_in_a_crowd(server: ServerProcess, texts: list[str]) -> None:
    assert len(server.replicas()) == 2
    with ThreadPoolExecutor(16) as crowd:
        assert list(crowd.map(lambda call: text(server.url, call), CALLS)) == texts
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    made = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:generation_tokens_total{")]
    assert len(made) == 2
    assert sum(made) == 2 * 40 * len(CALLS)
    assert min(made) > 0


def test_a_killed_replica_costs_its_own_calls_at_most_and_comes_back(server: ServerProcess, texts: list[str]) -> None:
    """A call that it had answered nothing to is given to the other one: here, where nothing streams, none is lost."""
    before = server.replicas()
    with ThreadPoolExecutor(16) as crowd:
        answers = [crowd.submit(text, server.url, call) for call in CALLS * 4]
        os.kill(before[0], signal.SIGKILL)
        got = [one.result() for one in answers]
    assert got == texts * 4
    until = time.monotonic() + 300
    while len(after := server.replicas()) < 2 or after == before:
        assert time.monotonic() < until
        time.sleep(0.1)
    with ThreadPoolExecutor(16) as crowd:
        assert list(crowd.map(lambda call: text(server.url, call), CALLS)) == texts
