"""Methods without training, compared with published tables: Spec-Bench's leaderboard (Xia et al. 2024), SAM decoding
(Hu et al. 2024) and SuffixDecoding (Oliaro et al. 2025). All are for models of 7B or more on a GPU.

Each of our drafters and plain decoding decode the same prompts, in turns: bfloat16, greedy, always with the drafter's
own draft. In the last line `select` chooses. Figures are medians of the rounds, with the least and the most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from experiments.reproduce.cells import ratio_cell
from experiments.reproduce.options import Options
from experiments.reproduce.rounds import figures
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.errors import ConfigError
from specdec.measure.compare import Pair, compare
from specdec.models.loading import LoadedModel, load
from specdec.prompts.entry import Prompt
from specdec.registry import DRAFTERS

TITLE = "Methods without training"
ROUNDS, TOKENS = 3, 96


@dataclass(frozen=True)
class Published:
    """A method's line in a table.

    Args:
        speedup: over plain decoding, by the clock.
        tau: tokens a pass, or None if the table has none.
    """

    speedup: float
    tau: float | None = None


METHODS: Mapping[str, Sequence[str]] = {
    "prompt lookup": ("ngram",),
    "lookahead": ("lookahead",),
    "retrieval (REST)": ("retrieval",),
    "token recycling": ("recycling",),
    "suffix (SAM, SuffixDecoding)": ("suffix",),
    "suffix and recycling": ("suffix", "recycling"),
}
"""What papers call it → our drafters."""
LOOKUP, LOOKAHEAD, REST, RECYCLING, SUFFIX, BOTH = METHODS
TABLES: Mapping[str, Mapping[str, Published]] = {
    "Spec-Bench, A100": {
        LOOKUP: Published(1.59, 1.73),
        REST: Published(1.48, 1.82),
        LOOKAHEAD: Published(1.27, 1.66),
    },
    "Spec-Bench, RTX 3090": {
        LOOKUP: Published(1.55, 1.74),
        REST: Published(1.32, 1.63),
        LOOKAHEAD: Published(1.08, 1.65),
    },
    "SAM decoding, A6000": {
        LOOKUP: Published(1.56, 1.75),
        SUFFIX: Published(1.84, 2.30),
        RECYCLING: Published(1.84, 2.83),
        BOTH: Published(2.27, 3.03),
    },
    "SuffixDecoding": {LOOKUP: Published(1.35), SUFFIX: Published(1.87)},
}
"""Each of one machine and model, so that its lines may be compared with each other. The last one is a ratio of tokens
per second over a mixture of prompts."""

NOTE = """Drafting is a step's drafting time over a plain step's. Published only as limits: LogitSpec up to 2.61, τ
3.28; RACER over 2. The published trees have 25 to 80 nodes, which a GPU verifies at the cost of one. Ours have the
nodes that pay on a CPU. So our τ is lower where a broad tree helps."""


def run(options: Options) -> dict[str, Any]:
    """Method → τ, ratio and cost; and why others are left out."""
    prompts = [(one.category, [{"role": "user", "content": one.prompt}]) for one in options.records]
    loaded, found, left_out = load(dtype="bfloat16"), dict[str, Any](), dict[str, str]()
    count, tokens = (1, 16) if options.quick else (ROUNDS, TOKENS)
    for method, names in METHODS.items():
        try:
            found[method] = figures(rounds_of(loaded, names, prompts, count, tokens))
        except ConfigError as error:
            left_out[method] = str(error)
    return {"methods": found, "left_out": left_out}


def rounds_of(
    loaded: LoadedModel, names: Sequence[str], prompts: Sequence[tuple[str, Prompt]], count: int, max_tokens: int
) -> list[Sequence[Pair]]:
    """Each round has new drafters: those of the round before may remember its answers.

    Args:
        loaded: the target.
        names: of the drafters; of several, `select` chooses.
        prompts: with their labels.
        count: rounds.
        max_tokens: of each text.
    """
    policy, config = "always" if len(names) == 1 else "select", EngineConfig(num_blocks=1024)
    rounds: list[Sequence[Pair]] = []
    for _ in range(count):
        drafters = [DRAFTERS.create(name) for name in names]
        with SpeculativeGenerator(loaded, drafters, config=config, policy=policy) as generator:
            rounds.append(compare(generator, prompts, SamplingParams(max_tokens=max_tokens)).pairs)
    return rounds


def table(result: dict[str, Any]) -> str:
    """Markdown: a line a method, the fastest of ours first."""
    heads = ["method", "our drafters", "τ", "ratio to plain (rounds)", "95 % over prompts", "drafting", "identical"]
    heads += [f"{name}: speedup; τ" for name in TABLES]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for method, one in sorted(result["methods"].items(), key=lambda item: -item[1]["ratio"]):
        low, high = one["interval"]
        cells = [method, ", ".join(METHODS[method]), f"{one['tau']:.2f}", ratio_cell(one), f"{low:.2f} to {high:.2f}",
                 f"{one['drafting']:.1%}", f"{one['identical']}/{one['prompts']}"]  # fmt: skip
        lines.append(f"| {' | '.join([*cells, *(_published(of.get(method)) for of in TABLES.values())])} |")
    lines += ["", *(_reading(name, result["methods"]) for name in TABLES), NOTE]
    lines += [f"\nLeft out: {method}. {reason}" for method, reason in result["left_out"].items()]
    return "\n".join(lines) + "\n"


def _published(line: Published | None) -> str:
    if line is None:
        return ""
    return f"{line.speedup:.2f}" if line.tau is None else f"{line.speedup:.2f}; {line.tau:.2f}"


def in_order(published: Mapping[str, float], ours: Mapping[str, float]) -> tuple[int, int]:
    """How many pairs of methods stand in the published order, of how many that both have and the table tells apart."""
    pairs = [
        (published[a] - published[b]) * (ours[a] - ours[b])
        for a, b in combinations([name for name in published if name in ours], 2)
        if published[a] != published[b]
    ]
    return sum(product > 0 for product in pairs), len(pairs)


def _reading(name: str, methods: Mapping[str, Any]) -> str:
    """Order and ratios against one table."""
    of = TABLES[name]
    speedups = in_order({m: one.speedup for m, one in of.items()}, {m: one["ratio"] for m, one in methods.items()})
    taus = in_order({m: one.tau for m, one in of.items() if one.tau}, {m: one["tau"] for m, one in methods.items()})
    parts = [f"by speedup {speedups[0]} of {speedups[1]} pairs are in the published order"]
    if taus[1]:
        parts.append(f"by τ {taus[0]} of {taus[1]}")
    gained = [(one["ratio"] - 1) / (of[method].speedup - 1) for method, one in methods.items() if method in of]
    share = f"; our gains are {min(gained):.0%} to {max(gained):.0%} of the published ones" if gained else ""
    return f"{name}: {', '.join(parts)}{share}.\n"
