"""Makes the stock store: the target's own greedy answers to prompts that it has made up itself.

python -m experiments.stock_store FOLDER [--chunks 60] [--minutes 40] [--deny PROMPTS.jsonl] [--store FILE]

A prompt is what the target writes as the user's turn of its chat template (Xu et al. 2024, Magpie), drawn at
temperature 1 and top-p 0.95; the answer is greedy. FOLDER gets one file a chunk; the same command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.places import write
from specdec.stores import Store, Vocabulary
from specdec.stores import write as write_store
from specdec.training.denied import Denied
from specdec.training.prompts import SHORTEST, Template

CHUNK = 64
"""Prompts a file."""
NOTE = {
    "tokenizer": "SmolLM2-135M-Instruct",
    "texts": "greedy answers of SmolLM2-135M-Instruct in bfloat16 to prompts that it made up itself",
    "made by": "experiments/stock_store.py",
}


@dataclass(frozen=True)
class Exchange:
    """A prompt that the target made up, and its answer's token ids, the end token last if it came."""

    prompt: str
    answer: list[int]


def exchanges(generator: SpeculativeGenerator, chunk: int, prompt_tokens: int, answer_tokens: int) -> list[Exchange]:
    """The chunk's prompts and answers: a function of its number."""
    template = Template(generator.tokenizer)
    [begun] = template.encode([template.begun()])
    draws = [
        SamplingParams(max_tokens=prompt_tokens, temperature=1.0, top_p=0.95, seed=chunk * CHUNK + index)
        for index in range(CHUNK)
    ]
    turns = [one.text.strip() for one in generator.generate([begun] * CHUNK, draws, progress=False)]
    prompts = [turn for turn in turns if len(turn) >= SHORTEST]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    answers = generator.generate(chats, SamplingParams(max_tokens=answer_tokens), progress=False)
    return [Exchange(prompt, list(one.token_ids)) for prompt, one in zip(prompts, answers, strict=True)]


def chosen(found: Iterable[Exchange], denied: Denied, generator: SpeculativeGenerator) -> Iterator[Exchange]:
    """Those with a prompt of their own and nothing that is denied."""
    seen: set[str] = set()
    for one in found:
        answer = generator.tokenizer.decode(one.answer, skip_special_tokens=True)
        if one.prompt not in seen and not denied.holds(one.prompt) and not denied.holds(answer):
            seen.add(one.prompt)
            yield one


def _collect(generator: SpeculativeGenerator, options: argparse.Namespace) -> list[Exchange]:
    """From the folder, and made anew where it lacks a chunk and there is time."""
    end, found = time.monotonic() + 60 * options.minutes, []
    for chunk in range(options.chunks):
        path = options.folder / f"{chunk:04d}.json"
        if not path.exists() and time.monotonic() < end:
            made = exchanges(generator, chunk, options.prompt_tokens, options.answer_tokens)
            write(path, json.dumps([vars(one) for one in made]))
            print(f"{path}: {len(made)} answers, {sum(len(one.answer) for one in made)} tokens", flush=True)
        if path.exists():
            found += [Exchange(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=40.0, help="after so long no chunk is begun")
    parser.add_argument("--prompt-tokens", type=int, default=120)
    parser.add_argument("--answer-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--deny", type=Path, nargs="*", default=[], help="files of prompts that it may not hold")
    parser.add_argument("--store", type=Path, help="write the store to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = EngineConfig(max_num_seqs=32)
    generator = SpeculativeGenerator.from_pretrained(drafter="none", dtype="bfloat16", config=sizes)
    kept = list(chosen(_collect(generator, options), Denied.read(options.deny), generator))
    print(f"{len(kept)} answers, {sum(len(one.answer) for one in kept)} tokens")
    if options.store is not None:
        vocabulary = Vocabulary.of_tokenizer(generator.loaded.model.vocab_size, generator.tokenizer)
        write_store(options.store, Store.of([one.answer for one in kept], vocabulary, note=NOTE))


if __name__ == "__main__":
    main()
