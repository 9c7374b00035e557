"""N-gram drafts by kind of text (Spec-Bench, Xia et al. 2024; Vicuna-7B: prompt lookup has τ 1.75, speedup 1.66).

Plain and speculative decoding of each prompt in turns, bfloat16, greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.reproduce.options import Options
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.models.loading import load
from specdec.tracking.compare import Pair, compare
from specdec.tracking.metrics import DecodingStats, credible, speedup, speedup_interval

TITLE = "N-gram drafts by category"
PUBLISHED = {"tau": 1.75, "speedup": (1.66, 1.64)}


def run(options: Options) -> dict[str, Any]:
    """Category → τ, α, ratio."""
    records = options.records
    prompts = [(one.category, [{"role": "user", "content": one.prompt}]) for one in records]
    config = EngineConfig(num_blocks=1024, adaptive=True)
    with SpeculativeGenerator(load(dtype="bfloat16"), "ngram", config=config) as generator:
        pairs = compare(generator, prompts, SamplingParams(max_tokens=16 if options.quick else 96)).pairs
    categories = list(dict.fromkeys(pair.label for pair in pairs))
    found = {name: _figures([pair for pair in pairs if pair.label == name]) for name in categories}
    return {"categories": found | {"all": _figures(pairs)}}


def _figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    plain, fast = [pair.plain.stats for pair in pairs], [pair.speculative.stats for pair in pairs]
    low, high = speedup_interval(plain, fast)
    total = DecodingStats.total(fast)
    return {"prompts": len(plain), "tau": total.mean_accepted_length, "alpha": total.acceptance_rate,
            "speedup": speedup(plain, fast), "low": low, "high": high,
            "identical": sum(pair.identical for pair in pairs)}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown, the most accepted first."""
    lines = ["| category | prompts | τ | α | ratio to plain (95 %) | identical |", "|---|---|---|---|---|---|"]
    for name, one in sorted(result["categories"].items(), key=lambda item: -item[1]["tau"]):
        interval = f" ({one['low']:.2f} to {one['high']:.2f})" if one["prompts"] > 1 else ""
        ratio = f"{one['speedup']:.2f}{interval}"
        shown = ratio if credible(one["speedup"], one["tau"]) else "> τ: measure again"
        same = f"{one['identical']}/{one['prompts']}"
        lines.append(f"| {name} | {one['prompts']} | {one['tau']:.2f} | {one['alpha']:.2f} | {shown} | {same} |")
    first, second = PUBLISHED["speedup"]
    lines += ["", f"Published for all of Spec-Bench: τ {PUBLISHED['tau']}, speedup {first} (A100) and {second} (RTX "
              "3090); summaries highest, translation lowest. Another target and, by default, our own prompts, of which "
              "there are few: only the order of the categories can be compared."]  # fmt: skip
    return "\n".join(lines) + "\n"
