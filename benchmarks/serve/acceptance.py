"""Do the tools show the acceptance that the server counts? aiperf and `vllm bench serve` beside /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.contenders import WORKERS, python_of
from benchmarks.serve.contenders import MODEL
from benchmarks.serve.load import TEXTS, Texts

COUNTED = ("spec_decode_num_drafts", "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens")
"""Steps with a draft, draft tokens and accepted ones; behind a prefix that names the engine."""
BENCH = ("spec_decode_num_drafts", "spec_decode_draft_tokens", "spec_decode_accepted_tokens")
"""The names of the same figures in the result file of `vllm bench serve`, in the same order."""
RESULT = "bench.json"


def command(texts: Texts, url: str, clients: int) -> list[str]:
    """`vllm bench serve`; it reads TEXTS in its folder and writes RESULT there."""
    return [
        str(python_of("vllm")), str(WORKERS / "bench_vllm.py"), "--backend", "openai-chat", "--base-url", url,
        "--endpoint", "/v1/chat/completions", "--model", MODEL, "--tokenizer", str(texts.tokenizer),
        "--dataset-name", "custom", "--dataset-path", TEXTS, "--skip-chat-template", "--disable-shuffle",
        "--num-prompts", str(len(texts.prompts)), "--custom-output-len", str(texts.max_tokens), "--temperature", "0",
        "--max-concurrency", str(clients), "--disable-tqdm", "--save-result", "--result-dir", ".",
        "--result-filename", RESULT,
    ]  # fmt: skip


def read(told: Mapping[str, Any], asked: int) -> list[int] | None:
    """What `vllm bench serve` says of drafts, in the order of COUNTED; None if it says nothing.

    Raises:
        ValueError: if a call failed.
    """
    if told["completed"] != asked:
        raise ValueError(f"{told['completed']} of {asked} calls were answered")
    return [round(told[name]) for name in BENCH] if BENCH[0] in told else None


def counts(metrics: Mapping[str, float]) -> list[int] | None:
    """The same figures so far, as a server counts them; None if it has no such counters."""
    prefixes = [name.partition(":")[0] for name in metrics if name.endswith(f":{COUNTED[1]}_total")]
    if not prefixes:
        return None
    return [round(metrics.get(f"{prefixes[0]}:{name}_total", 0)) for name in COUNTED]


def counted(before: Mapping[str, float], after: Mapping[str, float]) -> list[int] | None:
    """What a server counted between two looks at its /metrics."""
    first, last = counts(before), counts(after)
    return None if first is None or last is None else [b - a for a, b in zip(first, last, strict=True)]


def mean_ttft_ms(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Mean time to the first token by the server's own clock; None if it tells none."""
    total, number = (f"vllm:time_to_first_token_seconds_{name}" for name in ("sum", "count"))
    calls = after.get(number, 0) - before.get(number, 0)
    return 1000 * (after[total] - before.get(total, 0)) / calls if calls else None
