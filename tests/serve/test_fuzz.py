"""Calls that nobody would write by hand: each is answered or refused, never a 5xx, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from specdec.serve import fields
from specdec.serve.settings import Settings
from tests.serve import services
from tests.serve.services import CHAT

CALLS = 2000
SMALL = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, -(2**63), 10**30])
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "\x00", "\ud800", "the fox", "greedy", "ngram", "auto", "{}", "a" * 500]
)
ATOMS = st.none() | st.booleans() | SMALL | st.floats() | TEXTS
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SCHEMA = st.sampled_from(
    [{}, {"type": "object"}, {"enum": [1, "a"]}, {"type": "nothing"}, {"$ref": "#/nowhere"}, {"anyOf": []}]
)
FUNCTION = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", "a b", ""]) | JSON}, optional={"parameters": SCHEMA | JSON}
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION | JSON})
CALL = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS | JSON}) | JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", ""]) | JSON},
    optional={"content": TEXTS | JSON, "tool_calls": st.lists(CALL, max_size=2) | JSON},
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(MESSAGE, max_size=3),
    "tools": st.lists(TOOL, max_size=3),
    "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]),
    "prompt": TEXTS | st.lists(st.integers(0, 399), max_size=9) | st.lists(TEXTS, max_size=3),
    "stop": TEXTS | st.lists(TEXTS, max_size=3),
    "logit_bias": st.dictionaries(st.sampled_from(["1", "7", "-1", "x"]), st.floats(-120, 120), max_size=2),
    "stream": st.booleans(),
    "stream_options": st.dictionaries(st.sampled_from(["include_usage", "other"]), st.booleans()),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "x"])},
        optional={"json_schema": st.fixed_dictionaries({"schema": SCHEMA}) | JSON},
    ),
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "regex", "choice", "grammar", "json_object", "x"]), SCHEMA | TEXTS | JSON, max_size=2
    ),
    "prediction": st.fixed_dictionaries({"type": st.just("content"), "content": TEXTS | JSON}),
    "n": st.integers(0, 3),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 50),
    "seed": st.integers(0, 2**40),
    "logprobs": st.booleans() | st.integers(0, 5),
    "min_tokens": st.integers(0, 3),
    "echo": st.booleans(),
    "ignore_eos": st.booleans(),
    "return_token_ids": st.booleans(),
    "num_draft_tokens": st.integers(0, 6),
    "rule": st.sampled_from(["greedy", "gumbel", "token", "block", "x"]),
    "max_tokens": st.integers(-1, 6),
    "max_completion_tokens": st.integers(-1, 6),
    "allowed_token_ids": st.lists(st.integers(-1, 401), max_size=4),
    "bad_words": st.lists(TEXTS, max_size=3),
}


def body(kinds: dict[str, Any], start: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A call that works, but for up to three fields: mostly such as are meant, or anything."""

    def change(names: list[str], value: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[tuple[str, Any]]:
        return st.sampled_from(names).flatmap(
            lambda name: st.tuples(st.just(name), LIKELY[name] if value is None else value)
        )

    likely = change([name for name in kinds if name in LIKELY])
    wild = change([*kinds, *fields.REFUSED, *fields.IGNORED, "unknown"], JSON)
    changes = st.lists(st.one_of(likely, likely, likely, wild), max_size=3)
    return changes.map(lambda made: {**start, "max_tokens": 3, **dict(made)})


PATHS: dict[str, st.SearchStrategy[Any]] = {
    "/v1/chat/completions": body(fields.CHAT, {"messages": CHAT}),
    "/v1/completions": body(fields.COMPLETION, {"prompt": "the fox"}),
    "/tokenize": st.dictionaries(
        st.sampled_from(["prompt", "messages", "add_special_tokens", "x"]), LIKELY["prompt"] | JSON
    ),
    "/detokenize": st.dictionaries(st.sampled_from(["tokens", "model"]), st.lists(SMALL) | JSON),
}


@pytest.mark.slow
def test_no_call_is_a_defect() -> None:
    """2,000 calls, all of them different; the seed is fixed."""
    seen: Counter[int] = Counter()
    with services.service(Settings(max_choices=8)) as made, asyncio.Runner() as runner:
        transport = httpx.ASGITransport(made.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)

        @seed(7)
        @settings(
            max_examples=CALLS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from([*PATHS, *list(PATHS)[:2]]).flatmap(lambda path: st.tuples(st.just(path), PATHS[path])))
        def call(case: tuple[str, Any]) -> None:
            path, sent = case
            content = json.dumps(sent).encode()
            answer = runner.run(client.post(path, content=content, headers={"content-type": "application/json"}))
            seen[answer.status_code] += 1
            assert answer.status_code < 500, (path, sent, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["message"], (path, sent)
                assert len(answer.text) < 2_000, (path, sent)
            elif answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.text.endswith("data: [DONE]\n\n")
                assert '"error"' not in answer.text, (path, sent, answer.text)
            else:
                answer.json()

        call()
        assert runner.run(client.get("/health")).status_code == 200
        runner.run(client.aclose())
    assert sum(seen.values()) >= CALLS
    assert min(seen[200], seen[400]) > CALLS // 10, seen
