"""What `Session.select` costs beside the next token of plain decoding.

python -m benchmarks.choices [--repeats 30] [--dtype bfloat16] [--json FILE]

Eight choices of at most six tokens after a question whose text is in the cache. Each round selects among them, and
decodes eight more tokens after the first; the time of one of those is a pass. Rounds differ in their question. Prints
the time of a selection over that of a pass: median and quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

from specdec import SamplingParams, SpeculativeGenerator
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.programs.calls import Call

CHOICES = (
    " a good mood", " a bad mood", " a very good mood", " neither of them", " sad and angry", " happy",
    " calm and quiet today", " not clear at all",
)  # fmt: skip
QUESTION = "Review {}: the room was clean and the food was fine, but the street was loud all night.\nMood:"
DECODED = 8


def seconds(call: Call[Any]) -> float:
    """Until a call has its result, from when it was made."""
    began = perf_counter()
    call.result()
    return perf_counter() - began


def study(generator: SpeculativeGenerator, repeats: int) -> list[float]:
    """Of each round the time of a selection over that of a token. A first round is not counted."""
    ratios = []
    for number in range(repeats + 1):
        session = generator.session(QUESTION.format(number))
        session.score(" x").result()  # reads the question
        chosen, first, more = session.fork(3)
        began = perf_counter()
        chosen.select(CHOICES).result()
        took = perf_counter() - began
        one, nine = (
            seconds(fork.gen(SamplingParams(max_tokens=count, ignore_eos=True, temperature=0)))
            for fork, count in ((first, 1), (more, 1 + DECODED))
        )
        ratios.append(took * DECODED / (nine - one))
    return ratios[1:]


def table(results: Mapping[str, Sequence[float]]) -> str:
    """Markdown."""
    low, median, high = quantiles(results["ratios"], n=4, method="inclusive")
    head = "| rounds | a selection, over a token | quartiles |\n|---|---|---|\n"
    return f"{head}| {len(results['ratios'])} | {median:.2f} | {low:.2f} and {high:.2f} |\n"


def main() -> None:
    """Measures, prints, writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with SpeculativeGenerator.from_pretrained(drafter="none", dtype=options.dtype) as generator:
        results = {"ratios": study(generator, options.repeats)}
    print(machine(), table(results), sep="\n")
    save(options.json, "benchmarks.choices", results, dtype=options.dtype)


if __name__ == "__main__":
    main()
