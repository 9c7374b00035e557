"""Does speculation change the output? Every prompt decoded plainly and speculatively, token by token.

python -m benchmarks.lossless --dtype bfloat16 --drafter ngram --batch 8 [--data FILE] [--limit 240] [--max-tokens 128]
    [--temperature 0.8] [--warm 256] [--json FILE]

`--drafter` and `--batch` take lists (`ngram,ngram:3,early_exit`, `1,8`): every pair is compared with the same plain
run. A number after a drafter's name is its branches: it drafts trees. A path after it is its draft model. Plain
decoding runs one prompt at a time, without the prefix cache, speculation `batch` at a time, so that a pass has other
rows in every respect. With a temperature the rule is `gumbel` and every prompt has a seed of its own.

`--warm N` decodes every few prompts twice with the prefix cache on, the second time warm, in N blocks of the cache: few
enough that requests lose their place. Both texts count.

Prints `identical K/K` last (texts compared), and exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import track

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.engine.outputs import Generation
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.loading import LoadedModel, load
from specdec.prompts import PromptRecord, load_prompts
from specdec.prompts.entry import Prompt
from specdec.prompts.subsets import choose
from specdec.stats import DecodingStats

BLOCKS = 4096


def decode(
    loaded: LoadedModel,
    drafter: str,
    batch: int,
    prompts: Sequence[Prompt],
    params: Sequence[SamplingParams],
    prefix_cache: bool = True,
) -> tuple[list[list[int]], DecodingStats]:
    """Token ids of every prompt, and what decoding took."""
    size = EngineConfig(num_blocks=BLOCKS, max_num_seqs=batch, prefix_cache=prefix_cache)
    with _generator(loaded, drafter, params[0], size) as generator:
        generations = generator.generate(prompts, params)
    return [g.token_ids for g in generations], DecodingStats.total(g.stats for g in generations)


def decode_twice(
    loaded: LoadedModel,
    drafter: str,
    batch: int,
    prompts: Sequence[Prompt],
    params: Sequence[SamplingParams],
    blocks: int,
) -> tuple[list[list[int]], list[list[int]], DecodingStats]:
    """Token ids of every prompt cold, and at once again warm, over so many blocks; and what both took together."""
    rounds: tuple[list[Generation], list[Generation]] = [], []
    with _generator(loaded, drafter, params[0], EngineConfig(num_blocks=blocks, max_num_seqs=batch)) as generator:
        for start in track(range(0, len(prompts), batch), "decoding", disable=len(prompts) < 16):
            group = slice(start, start + batch)
            for texts in rounds:
                texts += generator.generate(prompts[group], params[group], progress=False)
    cold, warm = ([one.token_ids for one in texts] for texts in rounds)
    return cold, warm, DecodingStats.total(one.stats for texts in rounds for one in texts)


def _generator(loaded: LoadedModel, drafter: str, params: SamplingParams, size: EngineConfig) -> SpeculativeGenerator:
    name, _, given = drafter.partition(":")
    options: dict[str, Any] = {"branches": int(given)} if given.isdecimal() else {"draft": given} if given else {}
    return SpeculativeGenerator(loaded, name, "auto" if params.greedy else "gumbel", options, size)


def shown(drafter: str) -> str:
    """Its name, and its draft model's without the folders."""
    name, colon, given = drafter.partition(":")
    return f"{name}{colon}{Path(given).name}"


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
    warm = any("cached" in run for runs in results.values() for run in runs)
    heads = ["target, sampling", "drafter", "batch", "τ", "identical texts", *(["cached", "preempted"] if warm else [])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for setting, runs in results.items():
        for run in runs:
            cells = [setting, run["drafter"], run["batch"], f"{run['tau']:.2f}", f"{run['identical']}/{run['of']}"]
            cells += [f"{run['cached']:.0%}", run["preemptions"]] if warm else []
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
    parser.add_argument("--warm", type=int, help="blocks of the prefix cache, over which all is decoded twice")
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
    plain, baseline = decode(loaded, "none", 1, prompts, params, prefix_cache=False)
    print(f"plain: {baseline.output_tokens} tokens, {baseline.tokens_per_second:.1f} tokens/s")
    same, compared, results = 0, 0, []
    setting = f"{args.dtype}, temperature {args.temperature:g}" + (f", {args.warm} blocks" if args.warm else "")
    for drafter, batch in product(args.drafter.split(","), map(int, args.batch.split(","))):
        if args.warm:
            *rounds, stats = decode_twice(loaded, drafter, batch, prompts, params, args.warm)
        else:
            *rounds, stats = decode(loaded, drafter, batch, prompts, params)
        differing = [line for texts in rounds for line in differences(records, plain, texts)]
        all_texts = len(rounds) * len(records)
        identical = all_texts - len(differing)
        tau, speed = stats.mean_accepted_length, stats.tokens_per_second
        print(f"{shown(drafter)}, batch {batch}: τ {tau:.2f}, {speed:.1f} tokens/s, identical {identical}/{all_texts}")
        print(*differing, sep="\n", end="\n" if differing else "")
        same, compared = same + identical, compared + all_texts
        results.append({"drafter": shown(drafter), "batch": batch, "tau": tau, "identical": identical, "of": all_texts})
        if args.warm:
            found = {"cached": stats.cached_tokens / stats.prompt_tokens, "preemptions": stats.preemptions}
            print(f"{found['cached']:.0%} of prompts found in the cache; {stats.preemptions} requests lost their place")
            results[-1] |= found
        save(args.json, "benchmarks.lossless", {setting: results})
    print(f"identical {same}/{compared}")
    sys.exit(0 if same == compared else 1)


if __name__ == "__main__":
    main()
