"""What /metrics counts, against figures worked out by hand and against what clients were told."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from specdec import Goals, SamplingParams
from specdec.engine.outputs import StepOutput
from specdec.engine.request import FinishReason
from specdec.serve.app import Service
from specdec.serve.meters import Meters, Times
from specdec.verify.tree import DraftTree
from tests.serve import services
from tests.serve.services import CHAT, events, generator, get, post, settle

TEXT = "the theory, then the other, and then the"


def told(text: str) -> dict[tuple[str, ...], float]:
    """Name and labels, but for the model and the engine → value, as Prometheus' own parser reads it."""
    return {
        (sample.name, *(value for key, value in sample.labels.items() if key not in ("model_name", "engine"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def seen(service: Service) -> dict[tuple[str, ...], float]:
    settle(service)
    return told(get(service, "/metrics").text)


class Hand:
    """Meters of an engine that never runs: tests say what came when."""

    def __init__(self, goals: Goals) -> None:
        self.engine = generator(goals=goals).engine
        self.meters = Meters(self.engine, "by hand")

    def request(self, gains: list[tuple[float, int]], ends: FinishReason | None, at: float | None = None) -> None:
        """A request that came at 100 s, gained so many tokens at these times, and ended with or after the last."""
        request = self.engine.make_request([1, 2, 3], SamplingParams(max_tokens=50))
        times = Times(100.0, 100.0)
        for now, count in gains:
            request.tokens += [5] * count
            self.meters.gained(StepOutput(request, token_ids=[5] * count), times, now)
        now = gains[-1][0] if at is None else at
        self.meters.ended(StepOutput(request, finish_reason=ends), times, now)

    @property
    def told(self) -> dict[tuple[str, ...], float]:
        return told(self.meters.text().decode())


def test_the_time_of_a_token_does_not_hold_the_time_to_the_first() -> None:
    hand = Hand(Goals())
    hand.request([(102.0, 1), (102.1, 3), (102.4, 1)], "stop")  # 0.4 s for the 4 tokens after the first
    hand.request([(101.0, 1)], "stop")  # has no such token
    assert hand.told["vllm:request_time_per_output_token_seconds_count",] == 1
    assert hand.told["vllm:request_time_per_output_token_seconds_sum",] == pytest.approx(0.1)
    assert hand.told["vllm:time_to_first_token_seconds_sum",] == 3
    assert hand.told["vllm:inter_token_latency_seconds_count",] == 2
    assert hand.told["vllm:e2e_request_latency_seconds_sum",] == pytest.approx(3.4)


def test_requests_are_held_to_each_goal_and_to_all() -> None:
    hand = Hand(Goals(ttft_ms=1000, tpot_ms=125))
    hand.request([(100.5, 1), (101.0, 4)], "stop")  # 0.5 s, then 0.125 s each: both, just so
    hand.request([(100.5, 1), (101.0, 3)], "length")  # 0.167 s each
    hand.request([(101.5, 1), (101.6, 4)], "stop")  # too late
    hand.request([(101.5, 1)], "length")  # too late, and nothing to wait for after that
    hand.request([(100.5, 1), (100.6, 4)], "aborted", at=150.0)
    hand.request([(100.5, 1), (100.6, 4)], "error", at=150.0)
    counted = {key[1:]: value for key, value in hand.told.items() if key[0] == "specdec_goal_met_total"}
    assert counted == {("ttft",): 2, ("tpot",): 3, ("all",): 1}
    assert hand.told["specdec_goal_requests_total",] == 4
    assert hand.told["specdec_goal_seconds", "ttft"] == 1
    assert hand.told["specdec_goal_seconds", "tpot"] == 0.125


def test_only_goals_that_are_set_are_told() -> None:
    assert not [key for key in Hand(Goals()).told if "goal" in key[0]]
    told = Hand(Goals(tpot_ms=50)).told
    keys = {key[1] for key in told if key[0] in ("specdec_goal_met_total", "specdec_goal_seconds")}
    assert keys == {"tpot", "all"}


def test_steps_count_for_the_drafter_whose_draft_was_verified() -> None:
    hand = Hand(Goals())
    assert {key[1]: value for key, value in hand.told.items() if key[0] == "specdec_drafter_steps_total"} == {
        "none": 0, "ngram": 0, "prediction": 0,
    }  # fmt: skip
    request = hand.engine.make_request([1, 2, 3], SamplingParams(max_tokens=50))
    times, draft = Times(0.0, 0.0), DraftTree.chain([7, 8, 9])
    hand.meters.gained(StepOutput(request, token_ids=[4]), times, 1.0)
    hand.meters.gained(StepOutput(request, token_ids=[7, 8, 4], draft=draft, path=(0, 1), drafter="ngram"), times, 2.0)
    hand.meters.gained(StepOutput(request, token_ids=[4], draft=draft, path=(), drafter="ngram"), times, 3.0)
    told = hand.told
    assert (told["specdec_drafter_steps_total", "none"], told["specdec_drafter_tokens_total", "none"]) == (1, 1)
    assert (told["specdec_drafter_steps_total", "ngram"], told["specdec_drafter_tokens_total", "ngram"]) == (2, 4)
    positions = [told.get(("vllm:spec_decode_num_accepted_tokens_per_pos_total", str(p)), 0) for p in range(3)]
    assert positions == [1, 1, 0]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_steps_say_who_made_the_text_and_add_up_to_the_counters(path: str) -> None:
    asked: dict[str, Any] = {"messages": CHAT} if "chat" in path else {"prompt": TEXT}
    body = {**asked, "max_tokens": 40, "temperature": 0.01, "seed": 3, "n": 2, "return_steps": True}
    with services.service() as service:
        whole = post(service, path, **body).json()
        counted = seen(service)
        chunks = events(post(service, path, stream=True, **body))
        plain = post(service, path, **{**body, "return_steps": False}).json()
    assert "steps" not in plain["choices"][0]
    for choice in whole["choices"]:
        text = choice["message"]["content"] if "chat" in path else choice["text"]
        assert "".join(piece["text"] for step in choice["steps"] for piece in step["pieces"]) == text
        own = [chunk for event in chunks for chunk in event["choices"] if chunk["index"] == choice["index"]]
        assert [step for chunk in own for step in chunk.get("steps", [])] == choice["steps"]
    steps = [step for choice in whole["choices"] for step in choice["steps"]]
    assert sum(step["tokens"] for step in steps) == whole["usage"]["completion_tokens"] > 40
    for name in ("none", "ngram", "prediction"):
        mine = [step for step in steps if step["drafter"] == name]
        assert counted["specdec_drafter_steps_total", name] == len(mine)
        assert counted["specdec_drafter_tokens_total", name] == sum(step["tokens"] for step in mine)
    for key in ("draft", "accepted"):
        total = counted[f"vllm:spec_decode_num_{key}_tokens_total",]
        assert total == sum(step[f"{key}_tokens"] for step in steps) > 0
    for step in steps:  # the target's own token ends a step, and no other is its own
        assert step["accepted_tokens"] in (step["tokens"], step["tokens"] - 1)
        assert not step["pieces"] or not any(piece["drafted"] for piece in step["pieces"][step["accepted_tokens"] :])
        assert all(piece["drafted"] for piece in step["pieces"][: step["accepted_tokens"]][: len(step["pieces"]) - 1])
