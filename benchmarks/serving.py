"""What HTTP costs: the same texts over `specdec serve` and from the Python API, interleaved.

python -m benchmarks.serving [--data FILE] [--batch 1,8] [--repeats 7] [--max-tokens 128] [--precision bfloat16]
    [--drafters none,ngram] [--json FILE]

The server is a process of its own with the same weights and threads; it and the Python API of this process take turns,
and the order changes with every turn. The client shares the processors with the server. Times are from the first call
to the last byte. All ways must give the same texts. Nothing over HTTP can be faster: how far a share lies below zero
tells how little the figures can be trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx

from specdec import SamplingParams, SpeculativeGenerator
from specdec.measure.results import save
from specdec.prompts import load_prompts
from specdec.testing.server import ServerProcess

PATH = "/v1/completions"
PYTHON, WHOLE, STREAM = "Python", "whole", "streamed"
Way = Callable[[Sequence[str]], list[str]]
"""Prompts → the texts that follow them, all at once."""


@dataclass(frozen=True)
class Served:
    """Texts over HTTP.

    Args:
        http: with the server's address.
        runner: runs it.
        body: what all calls share.
    """

    http: httpx.AsyncClient
    runner: asyncio.Runner
    body: dict[str, Any]

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """Of as many clients as there are prompts. What came is read when all is there."""

        async def all_of_them() -> list[httpx.Response]:
            return await asyncio.gather(
                *(self.http.post(PATH, json={**self.body, "prompt": prompt}) for prompt in prompts)
            )

        return [text_of(answer.raise_for_status().text) for answer in self.runner.run(all_of_them())]


def text_of(answer: str) -> str:
    """Of one choice, in one body or as events."""
    if answer.startswith("{"):
        return str(json.loads(answer)["choices"][0]["text"])
    events = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


def measured(ways: dict[str, Way], prompts: Sequence[str], batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every way for the same prompts, turn by turn; the first turn is not counted.

    Raises:
        AssertionError: if the texts differ.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(repeats + 1):
        first = turn * batch % len(prompts)
        chosen = [prompts[(first + place) % len(prompts)] for place in range(batch)]
        texts = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = perf_counter()
            texts[name] = ways[name](chosen)
            if turn:
                seconds[name].append(perf_counter() - start)
        assert len({tuple(each) for each in texts.values()}) == 1, texts
    return seconds


def study(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each drafter and batch: medians over the turns of a way's time over Python's, and its range."""
    rows = []
    prompts = [record.prompt for record in load_prompts(options.data)]
    params = SamplingParams(max_tokens=options.max_tokens, ignore_eos=True, temperature=0)
    body = {"max_tokens": options.max_tokens, "ignore_eos": True, "temperature": 0}
    for drafter in options.drafters:
        alone = SpeculativeGenerator.from_pretrained(None, drafter, dtype=options.precision)
        words = f"drafter={drafter}", f"precision={options.precision}", "policy=always", "beside=[]"
        with alone, ServerProcess(*words) as server, asyncio.Runner() as runner:
            http = httpx.AsyncClient(base_url=server.url, timeout=600)
            ways: dict[str, Way] = {
                PYTHON: lambda some, alone=alone: [one.text for one in alone.generate(list(some), params)],
                WHOLE: Served(http, runner, body).texts,
                STREAM: Served(http, runner, {**body, "stream": True}).texts,
            }
            for batch in options.batch:
                seconds = measured(ways, prompts, batch, options.repeats)
                rows.append({"drafter": drafter, "batch": batch, "seconds": seconds})
                print(line(rows[-1]), flush=True)
            runner.run(http.aclose())
    return rows


def overhead(row: dict[str, Any], way: str) -> list[float]:
    """Share of Python's time that a way takes beside it: median, least, most."""
    shares = [mine / base - 1 for mine, base in zip(row["seconds"][way], row["seconds"][PYTHON], strict=True)]
    return [median(shares), min(shares), max(shares)]


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = ["{:+.1%} ({:+.1%} to {:+.1%})".format(*overhead(row, way)) for way in (WHOLE, STREAM)]
    return f"| {row['drafter']} | {row['batch']} | {median(row['seconds'][PYTHON]):.2f} | {' | '.join(cells)} |"


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    head = "| drafter | batch | Python, s | over HTTP, in one body | streamed |\n|---|---|---|---|---|\n"
    return head + "\n".join(map(line, results["rows"])) + "\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="JSON lines of prompts; the four shipped ones if left out")
    parser.add_argument("--batch", type=lambda text: tuple(map(int, text.split(","))), default=(1, 8))
    parser.add_argument("--drafters", type=lambda text: text.split(","), default=["none", "ngram"])
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measures, prints, writes what was asked for."""
    options = arguments()
    rows = study(options)
    save(options.json, "benchmarks.serving", {"rows": rows}, max_tokens=options.max_tokens, precision=options.precision)


if __name__ == "__main__":
    main()
