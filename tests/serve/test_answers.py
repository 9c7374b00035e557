"""What clients get is what Python gives: texts, counts, log-probabilities, in one body and as a stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.ngram import NgramDrafter
from specdec.serve.app import Service
from tests.serve import services
from tests.serve.services import CHAT, ask, events, generator, get, post, settle

TEXT = "the theory, then the other, and then the"
SAMPLED = {"temperature": 0.8, "seed": 7, "top_p": 0.9}
CASES: list[dict[str, Any]] = [
    {"temperature": 0},
    SAMPLED,
    {"temperature": 0, "repetition_penalty": 1.3, "stop": ["e"]},
    {"temperature": 1.2, "seed": 3, "min_tokens": 4, "frequency_penalty": 0.5, "top_k": 40},
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with services.service() as made:
        yield made


def python(prompt: Any, **params: Any) -> Any:
    """The same from Python, in an engine of its own."""
    with generator() as alone:
        return alone.generate(prompt, SamplingParams(**params))


def streamed(answer: httpx.Response) -> str:
    chunks = [choice for event in events(answer) for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in chunks)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_text_is_pythons_in_one_body_and_streamed(service: Service, case: dict[str, Any]) -> None:
    [chat], [text] = python(CHAT, max_tokens=16, **case), python(TEXT, max_tokens=16, **case)
    whole = post(service, "/v1/chat/completions", messages=CHAT, max_tokens=16, **case).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": chat.text}
    assert whole["choices"][0]["finish_reason"] == chat.finish_reason
    assert whole["usage"]["completion_tokens"] == len(chat.token_ids)
    assert (
        streamed(post(service, "/v1/chat/completions", messages=CHAT, max_tokens=16, stream=True, **case)) == chat.text
    )
    whole = post(service, "/v1/completions", prompt=TEXT, max_tokens=16, **case).json()
    assert whole["choices"][0]["text"] == text.text
    assert streamed(post(service, "/v1/completions", prompt=TEXT, max_tokens=16, stream=True, **case)) == text.text


def test_a_text_among_sixteen_clients_is_the_text_alone(service: Service) -> None:
    cases = [{**CASES[place % 4], "seed": place, "max_tokens": 4 + place} for place in range(16)]
    alone = [post(service, "/v1/completions", prompt=TEXT, **case).json()["choices"][0]["text"] for case in cases]

    async def together(client: httpx.AsyncClient) -> list[httpx.Response]:
        calls = (
            client.post("/v1/completions", json={"prompt": TEXT, "stream": bool(place % 2), **case})
            for place, case in enumerate(cases)
        )
        return await asyncio.gather(*calls)

    answers = ask(service, together)
    assert alone[0::2] == [answer.json()["choices"][0]["text"] for answer in answers[0::2]]
    assert alone[1::2] == [streamed(answer) for answer in answers[1::2]]


def test_several_texts_have_the_seeds_that_follow_and_stand_by_prompt(service: Service) -> None:
    ids = generator().encode(TEXT)
    body = {"prompt": [ids, ids[:5]], "n": 3, "max_tokens": 9, **SAMPLED}
    choices = post(service, "/v1/completions", **body).json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(6))
    expected = [
        python(prompt, max_tokens=9, **{**SAMPLED, "seed": 7 + place})[0].text
        for prompt in (ids, ids[:5])
        for place in range(3)
    ]
    assert [choice["text"] for choice in choices] == expected
    assert len(set(expected[:3])) > 1


def test_the_last_chunks_of_a_stream(service: Service) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = post(service, "/v1/chat/completions", messages=CHAT, max_tokens=6, stream=True, stream_options=options)
    first, *middle, last, usage = events(answer)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in (first, *middle)] == [None] * (1 + len(middle))
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6 == last["usage"]["completion_tokens"]
    assert {chunk["object"] for chunk in (first, *middle, last, usage)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1


def test_log_probabilities_of_a_chat_and_their_bytes(service: Service) -> None:
    case = {"max_tokens": 12, "temperature": 0}
    [expected] = python(CHAT, logprobs=3, **case)
    body = {"messages": CHAT, "logprobs": True, "top_logprobs": 3, **case}
    [choice] = post(service, "/v1/chat/completions", **body).json()["choices"]
    content = choice["logprobs"]["content"]
    assert [one["logprob"] for one in content] == expected.logprobs
    assert [[top["logprob"] for top in one["top_logprobs"]] for one in content] == [
        [logprob for _, logprob in tops] for tops in expected.top_logprobs
    ]
    assert bytes(byte for one in content for byte in one["bytes"]).decode(errors="replace") == expected.text
    chunks = events(post(service, "/v1/chat/completions", stream=True, **body))[1:]
    assert [one for chunk in chunks for one in chunk["choices"][0]["logprobs"]["content"]] == content


def test_an_echo_scores_the_prompt_as_one_pass_over_it_does(service: Service) -> None:
    """lm-eval takes a continuation for greedy if its log-probability equals the largest: the floats must be equal."""
    ids = generator().encode(TEXT)
    body = {"prompt": [ids], "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = post(service, "/v1/completions", **body).json()
    [choice] = answer["choices"]
    assert choice["text"] == TEXT
    scores = choice["logprobs"]
    [alone] = python(ids, max_tokens=1, prompt_logprobs=1)
    assert scores["token_logprobs"] == alone.prompt_logprobs
    assert scores["token_logprobs"][0] is None is scores["top_logprobs"][0]
    assert "".join(scores["tokens"]) == TEXT
    starts = [sum(map(len, scores["tokens"][:place])) for place in range(len(ids))]
    assert scores["text_offset"] == starts
    assert answer["usage"]["completion_tokens"] == 0
    said = post(
        service, "/v1/completions", prompt=ids, logprobs=1, max_tokens=9, temperature=0, return_token_ids=True
    ).json()["choices"][0]
    body["prompt"] = [ids + said["token_ids"]]
    again = post(service, "/v1/completions", **body).json()["choices"][0]["logprobs"]
    for one in (said["logprobs"], {key: values[-9:] for key, values in again.items()}):
        pairs = zip(one["token_logprobs"], one["top_logprobs"], strict=True)
        assert all(logprob == max(tops.values()) for logprob, tops in pairs)
    assert again["token_logprobs"][-9:] == pytest.approx(said["logprobs"]["token_logprobs"], abs=1e-5)


def test_prompt_logprobs_hold_the_token_and_its_rivals(service: Service) -> None:
    ids = generator().encode(TEXT)
    answer = post(service, "/v1/completions", prompt=ids, prompt_logprobs=2, max_tokens=1).json()
    [alone] = python(ids, max_tokens=1, prompt_logprobs=2)
    rows = answer["prompt_logprobs"]
    assert rows[0] is None
    for token, row, logprob, tops in zip(
        ids[1:], rows[1:], alone.prompt_logprobs[1:], alone.prompt_top_logprobs[1:], strict=True
    ):
        assert row[str(token)]["logprob"] == logprob
        assert {int(key) for key in row} == {token, *(each for each, _ in tops)}


def test_ids_are_returned_where_they_are_asked_for(service: Service) -> None:
    case = {"max_tokens": 8, "temperature": 0, "return_token_ids": True}
    [expected] = python(TEXT, max_tokens=8)
    [choice] = post(service, "/v1/completions", prompt=TEXT, **case).json()["choices"]
    assert choice["token_ids"] == expected.token_ids
    assert choice["prompt_token_ids"] == generator().encode(TEXT)
    chunks = [
        event["choices"][0] for event in events(post(service, "/v1/completions", prompt=TEXT, stream=True, **case))
    ]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == expected.token_ids
    assert ["prompt_token_ids" in chunk for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    named = {"logprobs": 0, "return_tokens_as_token_ids": True, **case}
    [choice] = post(service, "/v1/completions", prompt=TEXT, **named).json()["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in expected.token_ids]


def test_a_prediction_is_drafted_and_counted(service: Service) -> None:
    [expected] = python(TEXT, max_tokens=30)
    prediction = {"type": "content", "content": [{"type": "text", "text": expected.text}]}
    body = {"prompt": TEXT, "max_tokens": 30, "temperature": 0}
    answer = post(service, "/v1/completions", prediction=prediction, **body).json()
    assert answer["choices"][0]["text"] == expected.text
    wrong = post(service, "/v1/completions", prediction={"type": "content", "content": TEXT}, **body).json()
    assert wrong["choices"][0]["text"] == expected.text
    right, missed = (one["usage"]["completion_tokens_details"] for one in (answer, wrong))
    assert right["accepted_prediction_tokens"] >= missed["accepted_prediction_tokens"]
    assert missed["rejected_prediction_tokens"] > 0
    assert set(right) == {"accepted_prediction_tokens", "rejected_prediction_tokens"}


def test_what_became_of_drafts_is_consistent_and_in_the_counters() -> None:
    with services.service() as service:
        bodies = [{"prompt": TEXT * 2, "max_tokens": 40, **case} for case in CASES]
        found = [post(service, "/v1/completions", **body).json() for body in bodies]
        drafts = [one["metrics"]["speculative_decoding"] for one in found]
        for one in drafts:
            histogram = one["acceptance_histogram"]
            assert sum(histogram) == one["num_spec_steps"]
            accepted = sum(count * steps for count, steps in enumerate(histogram))
            assert accepted == one["num_accepted_draft_tokens"] <= one["num_draft_tokens"]
            assert len(histogram) == one["num_spec_tokens"] + 1
        assert sum(one["num_draft_tokens"] for one in drafts) > 0
        counted = counters(service)
        for name, key in {
            "num_drafts": "num_spec_steps",
            "num_draft_tokens": "num_draft_tokens",
            "num_accepted_tokens": "num_accepted_draft_tokens",
        }.items():
            assert counted[f"vllm:spec_decode_{name}_total"] == sum(one[key] for one in drafts)
        assert counted["vllm:generation_tokens_total"] == sum(one["usage"]["completion_tokens"] for one in found)
        assert counted["vllm:prompt_tokens_total"] == sum(one["usage"]["prompt_tokens"] for one in found)
        assert counted["vllm:num_requests_running"] == counted["vllm:num_requests_waiting"] == 0


def counters(service: Service) -> dict[str, float]:
    """Sums over labels."""
    settle(service)
    found: dict[str, float] = {}
    for line in get(service, "/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.split("{")[0], float(line.rsplit(" ", 1)[1])
            found[name] = found.get(name, 0.0) + value
    return found


def test_tokens_to_text_and_back(service: Service) -> None:
    ids = generator().encode("über 😀")
    answer = post(service, "/tokenize", prompt="über 😀", return_token_strs=True).json()
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (ids, len(ids), 256)
    assert len(answer["token_strs"]) == len(ids)
    assert post(service, "/detokenize", tokens=ids).json() == {"prompt": "über 😀"}
    assert post(service, "/tokenize", messages=CHAT).json()["tokens"] == generator().encode(CHAT)
    info = get(service, "/tokenizer_info").json()
    assert (info["eos_token"], info["chat_template"]) == ("<|end|>", services.TEMPLATE)


def test_content_in_parts_and_chats_that_go_on(service: Service) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}]}]
    body = {"max_tokens": 5, "temperature": 0}
    whole, split = (post(service, "/v1/chat/completions", messages=one, **body).json() for one in (CHAT, parts))
    assert whole["choices"] == split["choices"]


def test_names_of_models(service: Service) -> None:
    listed = get(service, "/v1/models").json()
    assert listed["data"][0]["id"] == "tiny" == get(service, "/v1/models/tiny").json()["id"]
    assert get(service, "/v1/models/other").status_code == 404
    assert post(service, "/v1/completions", model="other", prompt="x").json()["error"]["type"] == "NotFoundError"


def test_the_default_temperature_is_one_and_a_chat_may_fill_the_context(service: Service) -> None:
    texts = {post(service, "/v1/completions", prompt=TEXT, seed=seed).json()["choices"][0]["text"] for seed in range(4)}
    assert len(texts) > 1
    expected = python(TEXT, temperature=1.0, seed=0, max_tokens=16)[0].text
    assert post(service, "/v1/completions", prompt=TEXT, seed=0).json()["choices"][0]["text"] == expected
    usage = post(service, "/v1/chat/completions", messages=CHAT, ignore_eos=True, seed=1).json()["usage"]
    assert usage["total_tokens"] == 256


def test_minus_infinity_is_sent_as_a_number() -> None:
    from specdec.serve.shapes import LEAST, _finite

    assert (_finite(-math.inf), _finite(-1.5), _finite(None)) == (LEAST, -1.5, None)


@pytest.mark.parametrize("rule", ["gumbel", "traversal"])
def test_a_call_may_name_its_rule_and_its_drafter(service: Service, rule: str) -> None:
    """The text is Python's with an engine of that rule."""
    drafter = NgramDrafter(num_draft_tokens=4, min_match=1)
    with SpeculativeGenerator(services.loaded(), drafter, rule, config=EngineConfig(num_blocks=64)) as alone:
        [wanted] = alone.generate(TEXT, SamplingParams(max_tokens=24, num_draft_tokens=2, **SAMPLED))
    own = {"rule": rule, "drafter": "ngram", "num_draft_tokens": 2}
    answer = post(service, "/v1/completions", prompt=TEXT, max_tokens=24, **own, **SAMPLED).json()
    assert answer["choices"][0]["text"] == wanted.text
    assert answer["metrics"]["speculative_decoding"]["num_draft_tokens"] == wanted.stats.drafted_tokens > 0


def test_a_stop_is_named(service: Service) -> None:
    """By its string, or its token; neither the end token nor the limit has a name."""
    [text] = python(TEXT, temperature=0, max_tokens=6)
    string, token = text.text[2:4], text.token_ids[3]
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"stop": ["nowhere", string]}, string, "stop"),
        ({"stop_token_ids": [token]}, token, "stop"),
        ({}, None, "length"),
    ]
    for fields, reason, finish in cases:
        body = {"prompt": TEXT, "temperature": 0, "max_tokens": 6, **fields}
        [choice] = post(service, "/v1/completions", **body).json()["choices"]
        assert (choice["stop_reason"], choice["finish_reason"]) == (reason, finish)
        last = [event for event in events(post(service, "/v1/completions", stream=True, **body)) if event["choices"]][
            -1
        ]
        assert last["choices"][0]["stop_reason"] == reason
