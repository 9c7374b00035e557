"""Where a step's time goes: the target's pass, the drafter, and the host's work around them.

python -m benchmarks.split [--data FILE] [--limit 16] [--max-tokens 64] [--json FILE]

Host work is everything that a step does outside of the pass and of the drafter: transforming and judging logits, the
cache's tables, turning tokens into text, counting. The goal is for draft and host together; prefill is left out.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.loading import load
from specdec.prompts import PromptRecord, load_prompts
from specdec.prompts.subsets import choose
from specdec.stats import DecodingStats

GOALS = {1: 0.05, 8: 0.10}
"""Batch → most that draft and host may take of a step."""
SAMPLINGS = {"greedy": 0.0, "sampled": 0.8}


def measure(records: list[PromptRecord], dtype: str, max_tokens: int) -> dict[str, dict[str, float]]:
    """Drafter, batch and sampling → shares of the step, and milliseconds of it."""
    loaded = load(dtype=dtype)
    chats = [[{"role": "user", "content": record.prompt}] for record in records]
    results = {}
    for drafter, batch, (sampling, temperature) in product(("none", "ngram"), GOALS, SAMPLINGS.items()):
        generator = SpeculativeGenerator(loaded, drafter, config=EngineConfig(num_blocks=1024, max_num_seqs=batch))
        params = [SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=i) for i in range(len(chats))]
        generator.generate(chats[:batch], params[:batch])  # warms up
        stats = DecodingStats.total(g.stats for g in generator.generate(chats, params))
        total = stats.decode_seconds
        results[f"{dtype}, {drafter}, batch {batch}, {sampling}"] = {
            "batch": batch,
            "verify": stats.verify_seconds / total,
            "draft": stats.draft_seconds / total,
            "host": stats.host_seconds / total,
            "ms_per_sequence_and_step": 1e3 * total / stats.passes,
        }
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| | pass | draft | host | draft + host | goal |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        aside, goal = result["draft"] + result["host"], GOALS[int(result["batch"])]
        lines.append(
            f"| {name} | {result['verify']:.1%} | {result['draft']:.2%} | {result['host']:.2%} | {aside:.2%} "
            f"| ≤ {goal:.0%}: {'met' if aside <= goal else 'missed'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="JSON lines; the shipped prompts if left out")
    parser.add_argument("--limit", type=int, default=16, help="prompts, evenly from all categories")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    records = choose(load_prompts(args.data), args.limit)
    results: dict[str, dict[str, float]] = {}
    for dtype in ("bfloat16", "int8"):
        results |= measure(records, dtype, args.max_tokens)
    print(machine(), "", table(results), sep="\n")
    save(args.json, "benchmarks.split", results, prompts=len(records))


if __name__ == "__main__":
    main()
