"""What the prefix cache finds, and what it saves, on programs whose requests have beginnings in common.

python -m experiments.prefix [workloads=few-shot,agents] [rounds=3] [dtype=bfloat16] [markdown=FILE]

Every workload runs with the cache and without it, in turns, each time in a new engine. The optimum is that of a cache
without bounds in which every request finds what any earlier one has run: it is counted from the texts alone.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

from experiments._words import Makers, listed, parsed
from experiments._workloads import WORKLOADS
from specdec import EngineConfig, SpeculativeGenerator
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.errors import ConfigError
from specdec.measure.markdown import table
from specdec.models.loading import LoadedModel, load


@dataclass(frozen=True)
class Study:
    """What is measured; see the module."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    rounds: int = 3
    dtype: str = "bfloat16"
    markdown: Path | None = None

    def __post_init__(self) -> None:
        for name in self.workloads:
            if name not in WORKLOADS:
                raise ConfigError(f"Unknown workload {name!r}. Valid names: {', '.join(WORKLOADS)}.")


@dataclass(frozen=True)
class Row:
    """One workload.

    Args:
        name: of the workload.
        requests, prompt_tokens, cached_tokens: with the cache.
        optimum: tokens that a cache without bounds would have found.
        times: seconds of reading prompts with the cache over those without, of each round.
        whole: likewise, of reading prompts and decoding.
        first: likewise, from a later turn's question to its first token; none if there are no later turns.
    """

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    optimum: int
    times: tuple[float, ...]
    whole: tuple[float, ...]
    first: tuple[float, ...] = ()

    @property
    def cells(self) -> list[str]:
        """For the table."""
        hit, best = self.cached_tokens / self.prompt_tokens, self.optimum / self.prompt_tokens
        ran = (self.prompt_tokens - self.cached_tokens) / self.prompt_tokens
        return [
            self.name, str(self.requests), str(self.prompt_tokens), f"{hit:.1%}", f"{best:.1%}",
            f"{hit / best:.1%}" if best else "–", f"{ran:.2f}", _spread(self.times),
            _spread(self.first) if self.first else "–", _spread(self.whole),
        ]  # fmt: skip


@dataclass
class Asked:
    """A request as it was queued, and when.

    Args:
        request: itself.
        begun: when it was queued.
        waited: seconds from then to its first token.
    """

    request: Request
    begun: float
    waited: float = 0.0


def found_at_best(requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Tokens of prompts that earlier requests have run, one after the other and never forgotten.

    Args:
        requests: prompt and whole text of each, in order. The last token of a text has not run, and the last one of a
            prompt must run for its logits.
    """
    found, earlier = 0, list[Sequence[int]]()
    for prompt, text in requests:
        found += max((common(prompt[:-1], other) for other in earlier), default=0)
        earlier.append(text[:-1])
    return found


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of their common beginning."""
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
                min(len(one), len(other)))  # fmt: skip


def requests_of(loaded: LoadedModel, name: str, cached: bool) -> list[Asked]:
    """Those of a workload in a new engine, as they were queued."""
    config = EngineConfig(prefix_cache=cached, max_num_seqs=8)
    queued: dict[int, Asked] = {}
    with SpeculativeGenerator(loaded, "none", config=config) as generator:
        add, step = generator.engine.add, generator.engine.step

        def noted(request: Request) -> None:
            queued[request.id] = Asked(request, perf_counter())
            add(request)

        def clocked(*given: Any) -> list[StepOutput]:
            outputs = step(*given)
            for output in outputs:
                asked = queued[output.request.id]
                asked.waited = asked.waited or perf_counter() - asked.begun
            return outputs

        generator.engine.add, generator.engine.step = noted, clocked  # type: ignore[method-assign, assignment]
        WORKLOADS[name](generator)
    return list(queued.values())


def later_turns(asked: Sequence[Asked]) -> list[Asked]:
    """Those whose prompt goes on from the whole text of an earlier one."""
    texts, later = list[Sequence[int]](), list[Asked]()
    for one in asked:
        if any(common(one.request.prompt, text) == len(text) for text in texts):
            later.append(one)
        texts.append(one.request.tokens[:-1])
    return later


def measured(loaded: LoadedModel, name: str, rounds: int) -> Row:
    """One workload; the texts must be the same with the cache and without it."""
    times: list[float] = []
    whole: list[float] = []
    first: list[float] = []
    for turn in range(rounds):
        sides = {cached: requests_of(loaded, name, cached) for cached in ((True, False) if turn % 2 else (False, True))}
        warm, cold = sides[True], sides[False]
        # A program that waits for another's beginning asks its next question later: the order says nothing.
        if sorted(one.request.tokens for one in warm) != sorted(one.request.tokens for one in cold):
            raise AssertionError(f"The prefix cache changed a text of {name}.")
        times.append(_reading(warm) / _reading(cold))
        whole.append(_all(warm) / _all(cold))
        if later := later_turns(warm):
            first.append(_wait(later) / _wait(later_turns(cold)))
    requests = [one.request for one in warm]
    return Row(
        name,
        len(requests),
        sum(one.stats.prompt_tokens for one in requests),
        sum(one.stats.cached_tokens for one in requests),
        found_at_best([(one.prompt, one.tokens) for one in requests]),
        tuple(times),
        tuple(whole),
        tuple(first),
    )


def _reading(asked: Sequence[Asked]) -> float:
    return sum(one.request.stats.prefill_seconds for one in asked)


def _all(asked: Sequence[Asked]) -> float:
    return _reading(asked) + sum(one.request.stats.decode_seconds for one in asked)


def _wait(asked: Sequence[Asked]) -> float:
    return fmean(one.waited for one in asked)


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def report(study: Study, rows: Sequence[Row]) -> str:
    """The page."""
    heading = ["workload", "requests", "tokens of prompts", "hit rate", "optimum", "of the optimum", "tokens that ran",
               "time to read prompts", "first token of later turns", "whole time"]  # fmt: skip
    command = shlex.join(["python", "-m", "experiments.prefix", *sys.argv[1:]])
    return PAGE.format(
        command=command, dtype=study.dtype, rounds=study.rounds, table=table([heading, *(row.cells for row in rows)])
    )


WORDS: Makers = {"workloads": listed, "rounds": int, "dtype": str, "markdown": Path}


def main() -> None:
    """Measures, prints the page, and writes it."""
    study = Study(**parsed(sys.argv[1:], WORDS))
    loaded = load(dtype=study.dtype)
    page = report(study, [measured(loaded, name, study.rounds) for name in study.workloads])
    print(page)
    if study.markdown is not None:
        study.markdown.write_text(page, encoding="utf-8")


PAGE = """# What the prefix cache finds

Made by `{command}`.

The workloads are small versions of those in SGLang's paper (`experiments/_workloads.py`). SmolLM2-135M-Instruct
({dtype}) runs them without drafts, eight requests at a time, each time in a new engine. Texts are the same with the
cache and without it.

- *Hit rate* is the share of prompt tokens that the cache holds already.
- *Optimum* is the hit rate of a cache without limits, if each request finds all that earlier ones have run.
- The last four columns are ratios: with the cache over without it. Times are the median of {rounds} rounds, with
  their range.
- *First token of later turns* is the mean time from a question to its first token, for requests that go on from the
  whole text of an earlier one. Other requests are running at the same time.

{table}

The paper (Zheng et al. 2023, arXiv 2312.07104) has hit rates of 50 to 99 % on such workloads, and 96 % of the optimum
on average, with models of 7 to 70 billion parameters on GPUs. Hit rates depend on the texts, so they cannot be
compared one by one. The share of the optimum can.
"""


if __name__ == "__main__":
    main()
