"""The real Triton Inference Server over our engine, asked by NVIDIA's client."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments._triton import repository
from experiments._triton.server import HOME, TritonServer
from specdec import SamplingParams, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter
from specdec.errors import SpecdecError
from specdec.testing.tiny import save
from tests.drafting import draft_request
from tests.toytokenizers import byte_level

pytestmark = [pytest.mark.triton_server, pytest.mark.xdist_group("triton")]

PROMPTS = ("The quick brown fox jumps, the quick", "Über allen Gipfeln ist Ruh", "def f(x):\n    return", "😀")
LONG = 16_000
"""Tokens: no request ends by itself before it is cancelled."""


@dataclass(frozen=True)
class Served:
    """A server, and the target that it serves."""

    server: TritonServer
    model: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    save(folder / "model", byte_level(), max_context=2 * LONG, scale=0.1)
    repository.write(folder / "models", str(folder / "model"), config={"max_num_seqs": 4, "num_blocks": 8192})
    with TritonServer(folder / "models", HOME) as server:
        yield Served(server, str(folder / "model"))


def request(number: int, **params: Any) -> dict[str, Any]:
    """Even ones are greedy, odd ones are sampled; each has a seed of its own."""
    given = {"max_tokens": 40 + number, "temperature": 0.8 * (number % 2), "seed": number, "ignore_eos": True, **params}
    return {"text_input": f"{number} {PROMPTS[number % len(PROMPTS)]}", "sampling_parameters": given}


def plain(model: str, asked: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Text and tokens of each in Python, alone and without a draft."""
    with SpeculativeGenerator.from_pretrained(model, "none") as alone:
        found = [alone.generate(one["text_input"], SamplingParams(**one["sampling_parameters"]))[0] for one in asked]
    return [(one.text, one.token_ids) for one in found]


def started(server: TritonServer, asked: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """A client whose requests have begun."""
    words = [server.python, Path(repository.__file__).with_name("client.py"), server.grpc]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "begun\n"
    return process


def ended(process: subprocess.Popen[str], word: str = "") -> list[list[dict[str, Any]]]:
    """The responses that a client had; a word cancels what still runs."""
    told, _ = process.communicate(word, timeout=300)
    assert process.returncode == 0
    return json.loads(told)


def joined(responses: list[dict[str, Any]]) -> tuple[str, list[int]]:
    return (
        "".join(each["text_output"] for each in responses),
        [token for each in responses for token in each["token_ids"]],
    )


def test_streams_are_the_texts_of_python_bit_for_bit(served: Served) -> None:
    """More at the same time than the engine runs: some wait."""
    asked = [request(number) for number in range(12)]
    found = ended(started(served.server, asked))
    assert [joined(each) for each in found] == plain(served.model, asked)
    assert all([one["finish_reason"] for one in each] == [""] * (len(each) - 1) + ["length"] for each in found)
    assert any(len(one["token_ids"]) > 2 for each in found for one in each)  # drafts were accepted


def test_drafts_of_several_requests_are_one_batch(served: Served) -> None:
    def counted() -> list[float]:
        metrics = served.server.metrics()
        return [metrics[f"nv_inference_{name}", "drafter"] for name in ("count", "exec_count")]

    before = counted()
    ended(started(served.server, [request(number) for number in range(4)]))
    drafts, calls = (after - then for after, then in zip(counted(), before, strict=True))
    assert drafts > calls > 0


def test_http_streams_the_same_text(served: Served) -> None:
    asked = request(1)
    body = {**asked, "sampling_parameters": json.dumps(asked["sampling_parameters"])}
    answer = httpx.post(f"{served.server.url}/v2/models/target/generate_stream", json=body, timeout=60)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    [(text, _)] = plain(served.model, [asked])
    assert "".join(event["text_output"] for event in events) == text


def test_a_drafter_is_swapped_while_requests_run_and_no_text_changes(served: Served) -> None:
    server = served.server
    process = started(server, [request(number, max_tokens=LONG) for number in range(2)])
    server.change("drafter", drafter="suffix", options={"store": None})
    server.unload("drafter")
    server.load("drafter")
    found = ended(process, "cancel\n")
    for number, [*responses, last] in enumerate(found):
        text, tokens = joined(responses)
        [whole] = plain(served.model, [request(number, max_tokens=len(tokens))])
        assert last.keys() == {"error"}
        assert tokens == whole[1]
        assert text == whole[0][: len(text)]  # a character may still lack a byte
    wait_for(server, r"aborted after \d+ tokens", 2)  # both ran until they were cancelled


def wait_for(server: TritonServer, pattern: str, times: int) -> None:
    """Until the log has so many such lines; fails after a minute."""
    for _ in range(600):
        if len(re.findall(pattern, server.log.read_text(encoding="utf-8"))) == times:
            return
        time.sleep(0.1)
    raise AssertionError(f"The log has no {times} lines of {pattern}.")


def test_the_ensemble_encodes_and_drafts(served: Served) -> None:
    text = "the quick brown fox, the quick"
    inputs = [
        {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [text]},
        {"name": "max_depth", "shape": [1, 1], "datatype": "INT32", "data": [4]},
    ]
    answer = httpx.post(f"{served.server.url}/v2/models/propose/infer", json={"inputs": inputs}, timeout=60).json()
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    tokens = byte_level().encode(text)
    [tree] = NgramDrafter().propose([draft_request(tokens, max_depth=4, vocab_size=400)])
    assert tree.tokens
    assert found == {"token_ids": tokens, "draft_token_ids": list(tree.tokens)}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_tokns": 1}, "unexpected keyword argument 'max_tokns'"),
        ({"n": 2}, "A stream has one text"),
        ({"temperature": -1}, "temperature"),
        ({"rule": "block"}, "rule='block'"),
    ],
    ids=["unknown", "several", "range", "rule"],
)
def test_a_request_that_cannot_be_is_refused_and_the_others_go_on(
    served: Served, wrong: dict[str, Any], why: str
) -> None:
    asked = [request(1, **wrong), request(1)]
    [refused, served_well] = ended(started(served.server, asked))
    assert why in refused[0]["error"]
    assert [joined(served_well)] == plain(served.model, asked[1:])


def test_a_drafter_that_needs_the_target_is_refused_and_the_old_one_stays(served: Served) -> None:
    with pytest.raises(SpecdecError, match="Drafter 'early_exit' needs more than the text"):
        served.server.change("drafter", drafter="early_exit")
    test_the_ensemble_encodes_and_drafts(served)


def test_a_server_whose_model_cannot_be_loaded_is_not_started(tmp_path: Path) -> None:
    repository.write(tmp_path / "models", str(tmp_path / "nowhere"))
    for others in ("target", "drafter", "propose"):  # one is enough
        shutil.rmtree(tmp_path / "models" / others)
    with pytest.raises(SpecdecError, match="There is nothing at"):
        TritonServer(tmp_path / "models", HOME)
