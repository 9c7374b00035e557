"""A load, how aiperf is told to make it, and what aiperf says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import HOME
from benchmarks.serve.contenders import MODEL

AIPERF = HOME / "aiperf" / "bin" / "aiperf"
TEXTS, RESULT = "texts.jsonl", "profile_export_aiperf.json"
PERCENTILES = ("p50", "p95", "p99")
TIMES = {"ttft_ms": "time_to_first_token", "itl_ms": "inter_token_latency", "chunk_ms": "inter_chunk_latency"}
"""Our name of a time → aiperf's. An inter-token latency is a request's mean; a chunk may hold several tokens."""
DRAFTS = ("total_spec_decode_steps", "total_draft_tokens", "total_accepted_draft_tokens")
"""aiperf's sums of what the answers say: steps with a draft, draft tokens, accepted ones."""


@dataclass(frozen=True)
class Goals:
    """What makes a request good: milliseconds to its first token, and to each further one on average, at most."""

    ttft_ms: float = 1000.0
    itl_ms: float = 50.0


@dataclass(frozen=True)
class Load:
    """Who asks, and when.

    Args:
        clients: of a closed loop: each asks again as soon as it is answered; None for an open one.
        rate: of an open loop: calls per second, as a Poisson process; None for a closed one.
    """

    clients: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        """Key of the load in reports."""
        return f"clients={self.clients}" if self.rate is None else f"rate={self.rate:g}"

    @property
    def words(self) -> list[str]:
        """How aiperf is told."""
        if self.rate is None:
            return ["--concurrency", str(self.clients)]
        return ["--request-rate", f"{self.rate:g}", "--arrival-pattern", "poisson"]


@dataclass(frozen=True)
class Texts:
    """What is asked.

    Args:
        prompts: of chats, one call each.
        max_tokens: of an answer. Decoding is greedy.
        tokenizer: folder; the client counts tokens itself, the same way for every server.
    """

    prompts: Sequence[str]
    max_tokens: int
    tokenizer: Path

    @property
    def body(self) -> dict[str, Any]:
        """What all calls share."""
        return {"max_completion_tokens": self.max_tokens, "temperature": 0}


def command(load: Load, texts: Texts, url: str, seed: int, goals: Goals) -> list[str]:
    """aiperf's command line; it reads TEXTS in its folder and writes below `out`.

    Args:
        load: who asks.
        texts: what.
        url: of the server.
        seed: of the arrivals.
        goals: that a good request meets.
    """
    return [
        str(AIPERF), "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat", "--streaming",
        "--tokenizer", str(texts.tokenizer), "--input-file", TEXTS, "--custom-dataset-type", "single_turn",
        "--dataset-sampling-strategy", "sequential", "--random-seed", str(seed), *load.words,
        "--request-count", str(len(texts.prompts)), "--extra-inputs", json.dumps(texts.body),
        "--goodput", f"time_to_first_token:{goals.ttft_ms:g} inter_token_latency:{goals.itl_ms:g}",
        "--connection-reuse-strategy", "never",  # llama-server closes a kept one, perhaps as it is asked
        "--workers-max", "1", "--record-processors", "1", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics",
        "--export-level", "summary", "--artifact-dir", "out",
    ]  # fmt: skip


def file_of(prompts: Sequence[str]) -> str:
    """TEXTS, as aiperf and `vllm bench serve` read it: one by "text", the other by "prompt"."""
    return "".join(json.dumps({"text": prompt, "prompt": prompt}) + "\n" for prompt in prompts)


def read(told: Mapping[str, Any], asked: int) -> dict[str, Any]:
    """The figures of a run out of aiperf's result file.

    Args:
        told: the file.
        asked: calls that should have been answered.

    Returns:
        tokens_per_second; goodput, in good requests per second; good, their share; for each of TIMES its PERCENTILES;
        drafts: None, or steps with a draft, draft tokens and accepted ones.

    Raises:
        ValueError: if a call failed.
    """
    answered = round(told["request_count"]["avg"])
    if answered != asked or told["error_summary"]:
        raise ValueError(f"{answered} of {asked} calls were answered: {told['error_summary']}")
    good = told.get("good_request_count", {"avg": 0})["avg"]
    drafts = [round(told[name]["avg"]) for name in DRAFTS] if DRAFTS[0] in told else None
    return {
        "tokens_per_second": told["output_token_throughput"]["avg"],
        "tokens": told["total_output_tokens"]["avg"],
        "goodput": good / told["benchmark_duration"]["avg"],
        "good": good / answered,
        "mean_ttft_ms": told["time_to_first_token"]["avg"],
        "drafts": drafts,
        **{name: {each: told[theirs][each] for each in PERCENTILES} for name, theirs in TIMES.items()},
    }


def window(told: Mapping[str, Any]) -> tuple[float, float]:
    """When the first call was sent and the last one answered, in seconds since 1970: aiperf writes local times."""
    first, last = (datetime.fromisoformat(told[name]).timestamp() for name in ("start_time", "end_time"))
    return first, last
