"""Does speculation change the output? Every prompt decoded plainly and speculatively, token by token.

python -m benchmarks.lossless --dtype bfloat16 --drafter ngram --batch 8 [--data FILE] [--limit 240] [--max-tokens 128]
    [--branches 3] [--temperature 0.8]

Plain decoding runs one prompt at a time; speculation runs `batch` at a time, so that a pass has other rows in every
respect. With a temperature the rule is `gumbel` and every prompt has a seed of its own. Prints `identical K/K` last, and
exits with 1 if that is not so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.decode import choose
from benchmarks.machine import machine
from specdec import EngineConfig, Generation, SamplingParams, SpeculativeGenerator
from specdec.models.loading import load
from specdec.prompts import load_prompts
from specdec.tracking.metrics import DecodingStats


def main() -> None:
    """Decodes, compares, reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--drafter", default="ngram")
    parser.add_argument("--branches", type=int, default=1, help="more than 1 drafts trees")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, help="prompts, evenly from all categories")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--target", help="folder, GGUF file or hub id; the embedded model if left out")
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    loaded = load(args.target, dtype=args.dtype, backend=args.backend)
    records = load_prompts(args.data)
    if args.limit is not None:
        categories = len({record.category for record in records})
        records = choose(records, -(-args.limit // categories))[: args.limit]
    prompts = [[{"role": "user", "content": record.prompt}] for record in records]
    params = [
        SamplingParams(max_tokens=args.max_tokens, temperature=args.temperature, seed=seed)
        for seed in range(len(prompts))
    ]
    print(f"{args.dtype}, {args.drafter}, branches {args.branches}, batch {args.batch}; {machine()}")
    options = {} if args.drafter == "none" else {"branches": args.branches}
    rule = "auto" if args.temperature == 0 else "gumbel"
    size = EngineConfig(num_blocks=4096, max_num_seqs=1), EngineConfig(num_blocks=4096, max_num_seqs=args.batch)
    outputs: list[list[Generation]] = []
    for drafter, choices, config in (("none", {}, size[0]), (args.drafter, options, size[1])):
        generator = SpeculativeGenerator(loaded, drafter, rule, choices, config)
        outputs.append(generator.generate(prompts, params))
        stats = DecodingStats.total(generation.stats for generation in outputs[-1])
        tau = f"τ {stats.mean_accepted_length:.2f}"
        print(f"{drafter}: {stats.output_tokens} tokens, {tau}, {stats.tokens_per_second:.1f} tokens/s")
    same = 0
    for record, plain, speculative in zip(records, *outputs, strict=True):
        same += plain.token_ids == speculative.token_ids
        if plain.token_ids != speculative.token_ids:
            pairs = zip(plain.token_ids, speculative.token_ids, strict=False)
            where = next((i for i, (a, b) in enumerate(pairs) if a != b), "the end")
            print(f"{record.question_id} ({record.category}): differs at token {where}")
    print(f"identical {same}/{len(records)}")
    sys.exit(0 if same == len(records) else 1)


if __name__ == "__main__":
    main()
