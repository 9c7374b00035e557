"""Ours beside transformers, llama.cpp, OpenVINO, vLLM and ONNX Runtime: same weights, prompts and threads, greedy.

python -m benchmarks.peers [--data FILE --every 12 | --long 4096] [--max-tokens 128] [--repeats 3] [--batch 1,8]
    [--contenders ours,llamacpp-plain-bf16] [--json FILE] [--markdown FILE]

They are compared at equal precision (16, 8 and 4 bits), and the fastest of each engine at any, with the perplexity that
it pays. Every contender is a process with its weights loaded, and only the one that is asked runs. An engine that
cannot be installed, or that stops on the way, is reported as such and the others go on.

Measure on a machine that does nothing else: engines that spin at barriers (llama.cpp, torch) fall to a tenth beside one
busy neighbour. The load average at the start is kept in the JSON file. Ratios by category need whole batches of one
category: with `--per-category 8` they are full.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.peers.contenders import chosen
from benchmarks.peers.session import Plan, compare, tokenized
from benchmarks.peers.table import markdown
from benchmarks.perplexity import reference_text, windows
from specdec.measure.environment import command, machine
from specdec.models.sources import embedded_folder
from specdec.prompts import PromptRecord, load_prompts
from specdec.prompts.subsets import choose

MODEL = "SmolLM2-135M-Instruct"


def arguments() -> argparse.Namespace:
    """The command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="JSON lines; the four shipped prompts if left out")
    parser.add_argument("--long", type=int, help="instead of a file: four texts of N tokens, each to be summed up")
    parser.add_argument("--per-category", type=int, help="as many prompts as N of every category would be, evenly")
    parser.add_argument("--every", type=int, default=1, help="only every N-th prompt: a sample with the file's mixture")
    parser.add_argument("--limit", type=int, help="no more than N prompts")
    parser.add_argument("--max-tokens", type=int, default=Plan.max_tokens)
    parser.add_argument("--repeats", type=int, default=Plan.repeats)
    parser.add_argument("--batch", type=numbers, default=Plan.batch_sizes, help="batch sizes, with commas")
    parser.add_argument("--contenders", type=names, help="contenders or engines, with commas; all if left out")
    parser.add_argument("--threads", type=int, default=Plan.threads)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def long_prompts(tokenizer: Any, tokens: int, number: int = 4) -> list[PromptRecord]:
    """Passages of the language reference, so many tokens each, to be summed up."""
    texts = [tokenizer.decode(window) for window in windows(tokenizer, reference_text(), number, tokens)]
    return [PromptRecord(str(each), "summary", f"{text}\n\nSum up the text above.") for each, text in enumerate(texts)]


def main() -> None:
    """Measures and prints; writes what was asked for."""
    args = arguments()
    load = os.getloadavg()[0]  # of the last minute, before any of ours adds to it
    torch.set_num_threads(args.threads)  # as the workers do: the line about the machine tells it
    try:
        contenders = chosen(args.contenders)
    except ValueError as error:
        sys.exit(str(error))
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    records = long_prompts(tokenizer, args.long) if args.long else load_prompts(args.data)
    if args.per_category is not None:
        records = choose(records, args.per_category * len({record.category for record in records}))
    prompts = tokenized(tokenizer, records[:: args.every][: args.limit])
    read = windows(tokenizer, reference_text(), number=8, length=512)
    plan = Plan(args.max_tokens, args.repeats, args.batch, args.threads)
    about = {"command": command("benchmarks.peers"), "model": MODEL, "machine": machine(), "load": load, **asdict(plan)}
    report = about | compare(contenders, prompts, [tokenizer.eos_token_id], read, plan)
    text = markdown(report)
    print(machine(), "", text, sep="\n")
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(
            f"## Comparison with other engines\n\n`{report['command']}`; {report['machine']}.\n\n{text}",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
