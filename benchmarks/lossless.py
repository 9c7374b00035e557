"""Does speculation change the output? Every prompt decoded plainly and speculatively, token by token.

python -m benchmarks.lossless --dtype bfloat16 --drafter ngram --batch 8 [--data FILE] [--limit 240] [--max-tokens 128]
    [--temperature 0.8] [--json FILE]

`--drafter` and `--batch` take lists (`ngram,ngram:3,early_exit`, `1,8`): every pair is compared with the same plain
run. A number after a drafter's name is its branches: it drafts trees. Plain decoding runs one prompt at a time,
speculation `batch` at a time, so that a pass has other rows in every respect. With a temperature the rule is `gumbel`
and every prompt has a seed of its own. Prints `identical K/K` last (texts compared), and exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.loading import LoadedModel, load
from specdec.prompts import PromptRecord, load_prompts
from specdec.prompts.entry import Prompt
from specdec.prompts.subsets import choose
from specdec.stats import DecodingStats

BLOCKS = 4096


def decode(
    loaded: LoadedModel, drafter: str, batch: int, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
) -> tuple[list[list[int]], DecodingStats]:
    """Token ids of every prompt, and what decoding took."""
    name, _, branches = drafter.partition(":")
    options = {"branches": int(branches)} if branches else {}
    rule = "auto" if params[0].greedy else "gumbel"
    size = EngineConfig(num_blocks=BLOCKS, max_num_seqs=batch)
    with SpeculativeGenerator(loaded, name, rule, options, size) as generator:
        generations = generator.generate(prompts, params)
    return [g.token_ids for g in generations], DecodingStats.total(g.stats for g in generations)


def differences(records: Sequence[PromptRecord], plain: list[list[int]], other: list[list[int]]) -> list[str]:
    """Where each text that is not the same departs."""
    found = []
    for record, a, b in zip(records, plain, other, strict=True):
        if a != b:
            where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), "the end")
            found.append(f"{record.question_id} ({record.category}): differs at token {where}")
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    lines = ["| target, sampling | drafter | batch | τ | identical texts |", "|---|---|---|---|---|"]
    for setting, runs in results.items():
        for run in runs:
            cells = (setting, run["drafter"], run["batch"], f"{run['tau']:.2f}", f"{run['identical']}/{run['of']}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Decodes, compares, reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--drafter", default="ngram")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, help="prompts, evenly from all categories")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--target", help="folder, GGUF file or hub id; the embedded model if left out")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded = load(args.target, dtype=args.dtype, backend=args.backend)
    records = choose(load_prompts(args.data), args.limit)
    prompts = [[{"role": "user", "content": record.prompt}] for record in records]
    params = [
        SamplingParams(max_tokens=args.max_tokens, temperature=args.temperature, seed=seed)
        for seed in range(len(prompts))
    ]
    print(f"{args.dtype}, temperature {args.temperature}; {machine()}")
    plain, baseline = decode(loaded, "none", 1, prompts, params)
    print(f"plain: {baseline.output_tokens} tokens, {baseline.tokens_per_second:.1f} tokens/s")
    same, compared, results = 0, 0, []
    for drafter, batch in product(args.drafter.split(","), map(int, args.batch.split(","))):
        texts, stats = decode(loaded, drafter, batch, prompts, params)
        differing = differences(records, plain, texts)
        identical = len(records) - len(differing)
        tau, speed = stats.mean_accepted_length, stats.tokens_per_second
        print(f"{drafter}, batch {batch}: τ {tau:.2f}, {speed:.1f} tokens/s, identical {identical}/{len(records)}")
        print(*differing, sep="\n", end="\n" if differing else "")
        same, compared = same + identical, compared + len(records)
        results.append({"drafter": drafter, "batch": batch, "tau": tau, "identical": identical, "of": len(records)})
        save(args.json, "benchmarks.lossless", {f"{args.dtype}, temperature {args.temperature:g}": results})
    print(f"identical {same}/{compared}")
    sys.exit(0 if same == compared else 1)


if __name__ == "__main__":
    main()
