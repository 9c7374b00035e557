"""Do the tools show the acceptance that the server counts? aiperf and `vllm bench serve` beside /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.contenders import WORKERS, python_of
from benchmarks.serve.contenders import MODEL
from benchmarks.serve.load import TEXTS, Texts
from specdec.testing.server import drafts_counted

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
    """What `vllm bench serve` says of drafts, in the order of `COUNTED` of the server; None if it says nothing.

    Raises:
        ValueError: if a call failed.
    """
    if told["completed"] != asked:
        raise ValueError(f"{told['completed']} of {asked} calls were answered")
    return [round(told[name]) for name in BENCH] if BENCH[0] in told else None


def counted(before: Mapping[str, float], after: Mapping[str, float]) -> list[int] | None:
    """What a server counted between two looks at its /metrics."""
    first, last = drafts_counted(before), drafts_counted(after)
    return None if first is None or last is None else [b - a for a, b in zip(first, last, strict=True)]


def mean_ttft_ms(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Mean time to the first token by the server's own clock; None if it tells none."""
    total, number = (f"vllm:time_to_first_token_seconds_{name}" for name in ("sum", "count"))
    calls = after.get(number, 0) - before.get(number, 0)
    return 1000 * (after[total] - before.get(total, 0)) / calls if calls else None
