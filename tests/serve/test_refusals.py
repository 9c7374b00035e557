"""What is refused, how it is said, and that nothing that changes a text is dropped without a word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from specdec import SamplingParams
from specdec.serve import fields
from specdec.serve.app import Service
from specdec.serve.settings import Settings
from tests.serve import services
from tests.serve.services import CHAT, ask, get, post

DOCS = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
WRONG: list[tuple[str, dict[str, Any], str | None]] = [
    (TEXTS, {}, "prompt"),
    (TEXTS, {"prompt": []}, "prompt"),
    (TEXTS, {"prompt": [1, "a"]}, "prompt"),
    (TEXTS, {"prompt": [400]}, None),
    (TEXTS, {"prompt": [[1], [-1]]}, None),
    (TEXTS, {"prompt": "x" * 3000}, None),
    (TEXTS, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
    (TEXTS, {"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    (TEXTS, {"prompt": "a", "temperature": -1}, "temperature"),
    (TEXTS, {"prompt": "a", "temperature": "hot"}, "temperature"),
    (TEXTS, {"prompt": "a", "n": 0}, "n"),
    (TEXTS, {"prompt": "a", "n": 65}, "n"),
    (TEXTS, {"prompt": ["a"] * 65}, "n"),
    (TEXTS, {"prompt": "a", "stop": ["x"] * 17}, "stop"),
    (TEXTS, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (TEXTS, {"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias"),
    (TEXTS, {"prompt": "a", "logit_bias": {"one": 1}}, "logit_bias"),
    (TEXTS, {"prompt": "a", "logit_bias": {"400": 1}}, None),
    (TEXTS, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    (TEXTS, {"prompt": "a", "prediction": {"type": "content", "content": 5}}, "prediction"),
    (TEXTS, {"prompt": "a", "drafter": "nobody"}, None),
    (TEXTS, {"prompt": "a", "rule": "nobody"}, None),
    (TEXTS, {"prompt": "a", "rule": "greedy", "temperature": 1}, None),
    (TEXTS, {"prompt": "a", "best_of": 2}, "best_of"),
    (TEXTS, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXTS, {"prompt": "a", "temprature": 1}, "temprature"),
    (CHATS, {}, "messages"),
    (CHATS, {"messages": []}, None),
    (CHATS, {"messages": [{"role": "user"}]}, None),
    (CHATS, {"messages": "hi"}, "messages"),
    (CHATS, {"messages": CHAT, "top_logprobs": 3}, "top_logprobs"),
    (CHATS, {"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
    (CHATS, {"messages": CHAT, "response_format": {"type": "structural_tag"}}, "response_format"),
    (CHATS, {"messages": CHAT, "response_format": {"type": "json_schema"}}, "response_format"),
    (CHATS, {"messages": CHAT, "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    (CHATS, {"messages": CHAT, "response_format": "json"}, "response_format"),
    (CHATS, {"messages": CHAT, "structured_outputs": {}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"json_object": False}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"choice": []}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"regex": 5}}, "structured_outputs"),
    (CHATS, {"messages": CHAT, "structured_outputs": {"regex": "("}}, None),
    (CHATS, {"messages": CHAT, "structured_outputs": {"json": {"type": 5}}}, None),
    (CHATS, {"messages": CHAT, "guided_json": [1]}, "guided_json"),
    (CHATS, {"messages": CHAT, "guided_choice": ["a"], "guided_regex": "a"}, "guided_regex"),
    (CHATS, {"messages": CHAT, "guided_whitespace_pattern": "\n"}, "guided_whitespace_pattern"),
    (CHATS, {"messages": CHAT, "chat_template": "{{ 1 }}"}, "chat_template"),
    (CHATS, {"messages": CHAT, "chat_template_kwargs": {"x": [1]}}, "chat_template_kwargs"),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with services.service() as made:
        yield made


@pytest.mark.parametrize(("path", "body", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_a_400_that_names_it(
    service: Service, path: str, body: dict[str, Any], param: str | None
) -> None:
    answer = post(service, path, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert error["param"] == param or param is None
    assert len(error["message"]) <= 1001


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"[" * 100_000, b'{"prompt": NaN}', b"\xff\xfe", b'{"n": 1' + b"0" * 5000]
)
def test_a_body_that_is_no_object_is_a_400(service: Service, data: bytes) -> None:
    answer: httpx.Response = ask(service, lambda client: client.post(TEXTS, content=data))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_text_that_utf8_cannot_hold_is_a_400(service: Service) -> None:
    for body in (
        '{"prompt": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"prompt": "a", "stop": "\\udc00"}',
        '{"model": "\\ud800"}',
    ):
        answer: httpx.Response = ask(service, lambda client, body=body: client.post(TEXTS, content=body))
        assert answer.status_code == 400
        assert json.loads(answer.content)["error"]["code"] == 400


def test_other_paths_and_methods(service: Service) -> None:
    assert get(service, "/nowhere").status_code == 404
    wrong = get(service, CHATS)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, 405)
    assert "access-control-allow-origin" not in get(service, "/health", origin="http://evil.example").headers


def test_a_body_of_too_many_bytes_is_a_413() -> None:
    with services.service(Settings(max_body_bytes=2048)) as service:
        assert post(service, TEXTS, prompt="a" * 3000).status_code == 413
        assert post(service, TEXTS, prompt="a", max_tokens=1).status_code == 200


def test_the_key_is_asked_of_all_but_health() -> None:
    with services.service(Settings(api_key="secret")) as service:
        right, wrong = {"authorization": "Bearer secret"}, {"authorization": "Bearer secrets"}
        assert get(service, "/v1/models").status_code == get(service, "/v1/models", **wrong).status_code == 401
        assert get(service, "/metrics").json()["error"]["type"] == "AuthenticationError"
        assert get(service, "/v1/models", **right).status_code == get(service, "/health").status_code == 200


def test_unknown_fields_may_be_let_through_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with services.service(Settings(refuse_unknown=False)) as service:
        assert post(service, TEXTS, prompt="a", max_tokens=1, novelty=1).status_code == 200
        assert post(service, TEXTS, prompt="a", max_tokens=1, best_of=3).status_code == 400
    assert "novelty" in caplog.text


def test_fields_that_do_nothing_are_taken(service: Service) -> None:
    harmless = dict.fromkeys(fields.IGNORED, "x") | dict.fromkeys((*fields.REFUSED, *fields.CHAT))
    neutral = {name: next(iter(values)) for name, (values, _) in fields.REFUSED.items() if values}
    body = {**harmless, **neutral, "messages": CHAT, "max_tokens": 1}
    assert post(service, CHATS, **body).status_code == 200


def test_each_field_is_honoured_refused_or_ignored_once() -> None:
    honoured = set(fields.CHAT) | set(fields.COMPLETION)
    assert not honoured & set(fields.REFUSED)
    assert not honoured & set(fields.IGNORED)
    assert not set(fields.IGNORED) & set(fields.REFUSED)
    assert set(fields.PASSED) <= set(SamplingParams.__dataclass_fields__)


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Honoured", {*fields.CHAT, *fields.COMPLETION}),
        ("Refused", set(fields.REFUSED)),
        ("Ignored", set(fields.IGNORED)),
    ],
)
def test_the_docs_have_the_same_lists(title: str, names: set[str]) -> None:
    part = DOCS.split(f"### {title}\n")[1].split("\n#")[0]
    listed = {word for word in part.split("`")[1::2] if word.isidentifier()}
    assert names <= listed
    assert not listed & ({*fields.CHAT, *fields.COMPLETION, *fields.REFUSED, *fields.IGNORED} - names)


def test_ids_of_calls_come_back_if_they_can_be_written_into_a_log(service: Service) -> None:
    assert get(service, "/health", **{"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert get(service, "/health", **{"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
