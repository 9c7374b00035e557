"""Goodput under latency goals: fixed batches, Clipper's, SmartSpec's γ and ours on the same bursts, without a clock.

python -m experiments.goals texts=FILE [arrivals=FILE] [requests=400] [seeds=3] [results=docs/results/goals.json]
    [markdown=docs/goals.md]

`texts` were recorded by `python -m experiments.policies record=FILE`. `arrivals` has a number of seconds a line;
without it requests come in bursts that are made up. Goodput is requests a second that met both goals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, quantiles
from typing import Any

from experiments._results import publish
from experiments._rivals import BatchPace, GoodputPolicy
from experiments._serving import Arrival, MakePace, Served, Server
from experiments._texts import Text, read
from experiments._words import Makers, parsed, several
from experiments.policies import CURVE
from specdec import Drafter, EngineConfig, Goals
from specdec.drafters.ngram import NgramDrafter
from specdec.engine.pace import Pace
from specdec.engine.pacing import GoalPace
from specdec.engine.request import Request
from specdec.errors import ConfigError
from specdec.policy.always import AlwaysPolicy
from specdec.policy.base import Policy
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy

GAMMA, MOST_GAMMA = 4, 8
"""Of the fixed drafts, and of those that a policy may cut."""
NOISE = 0.1
CALM, BURST = 0.8, 4.0
"""Requests a second."""
CALM_SECONDS, BURST_SECONDS = 20.0, 6.0
"""How long each lasts, on average."""
GOALS = (Goals(1000, 40), Goals(2000, 30), Goals(4000, 60))


@dataclass(frozen=True)
class Way:
    """How a server decides.

    Args:
        policy: makes the policy, for a curve of passes.
        pace: makes the pace, for these goals and a curve.
        gamma: longest draft.
        batch: most requests that run.
    """

    policy: Callable[[CostCurve], Policy]
    pace: Callable[[Goals, CostCurve], MakePace]
    gamma: int = MOST_GAMMA
    batch: int = 16


class FirstComePace(GoalPace):
    """Ours, but whoever came first begins, late or not."""

    def eligible(self, waiting: Sequence[Request]) -> Sequence[Request]:
        """See `Pace`."""
        return waiting


def free(goals: Goals, curve: CostCurve) -> MakePace:
    """No control."""
    return lambda cache, limits, rows, clock: Pace()


def clipper(goals: Goals, curve: CostCurve) -> MakePace:
    """Of passes that may take as long as a token."""
    return lambda cache, limits, rows, clock: BatchPace(1e-3 * (goals.tpot_ms or 0.0), clock)


def first_come(goals: Goals, curve: CostCurve) -> MakePace:
    """Ours, but for the order."""
    return lambda cache, limits, rows, clock: FirstComePace(goals, cache, limits, rows, curve, clock)


def ours(goals: Goals, curve: CostCurve) -> MakePace:
    """What `specdec serve goals.…` does."""
    return lambda cache, limits, rows, clock: GoalPace(goals, cache, limits, rows, curve, clock)


def always(curve: CostCurve) -> Policy:
    """As many drafts as there are."""
    return AlwaysPolicy()


WAYS = {
    "without control": Way(ProductPolicy, free),
    **{f"fixed: batch {batch}, γ {GAMMA}": Way(always, free, GAMMA, batch) for batch in (2, 4, 8, 16)},
    f"Clipper's batch, γ {GAMMA}": Way(always, clipper, GAMMA),
    "SmartSpec's γ": Way(lambda curve: GoodputPolicy(curve, MOST_GAMMA), free),
    "ours, first come first served": Way(ProductPolicy, first_come),
    "ours": Way(ProductPolicy, ours),
}
BASE = "without control"


def bursts(random: Random) -> Iterator[float]:
    """Seconds of arrivals: a Poisson process whose rate changes between calm and burst (Markov-modulated)."""
    now, bursting = 0.0, False
    until = random.expovariate(1 / CALM_SECONDS)
    while True:
        later = now + random.expovariate(BURST if bursting else CALM)
        if later < until:
            now = later
            yield now
        else:
            now, bursting = until, not bursting
            until = now + random.expovariate(1 / (BURST_SECONDS if bursting else CALM_SECONDS))


def trace(texts: Sequence[Text], requests: int, seed: int, times: Sequence[float] = ()) -> list[Arrival]:
    """Texts at random, at the given times or in bursts."""
    random = Random(seed)
    coming = iter(times[:requests]) if times else bursts(random)
    return [Arrival(at, random.choice(texts)) for at, _ in zip(coming, range(requests), strict=False)]


def serve(way: Way, goals: Goals, arrivals: Sequence[Arrival], seed: int, curve: CostCurve = CURVE) -> list[Served]:
    """A run by the curve."""
    pace = way.pace(goals, curve)
    return list(Server(drafter_of(way), way.policy(curve), pace, curve, config_of(way), NOISE, seed).run(arrivals))


def config_of(way: Way) -> EngineConfig:
    """Sizes. Prompts come again and again, and reading them is a part of the work: nothing of them is kept."""
    return EngineConfig(num_blocks=16 * 128, max_num_seqs=way.batch, prefix_cache=False)


def drafter_of(way: Way) -> Drafter:
    """Drafts out of the request's own text."""
    return NgramDrafter(num_draft_tokens=way.gamma)


def summary(served: Sequence[Served], goals: Goals) -> dict[str, float]:
    """Figures of a run; times in milliseconds.

    Returns:
        goodput: requests a second that met both goals; met: their share; tokens: a second; tau: tokens a pass of a
        request; ttft and tpot: 50th, 95th and 99th percentile.
    """
    seconds = max(one.last for one in served) - min(one.queued for one in served)
    met = [one for one in served if goals.met(one.queued, one.first, one.last, one.tokens)]
    tokens = sum(one.tokens for one in served)
    figures = {
        "goodput": len(met) / seconds,
        "met": len(met) / len(served),
        "tokens": tokens / seconds,
        "tau": tokens / sum(one.passes for one in served),
    }
    for name, values in (("ttft", [one.ttft for one in served]), ("tpot", [one.tpot for one in served])):
        cuts = quantiles(values, n=100, method="inclusive")
        figures |= {f"{name} p{percent}": 1e3 * cuts[percent - 1] for percent in (50, 95, 99)}
    return figures


def compare(texts: Sequence[Text], requests: int, seeds: int, times: Sequence[float] = ()) -> dict[str, Any]:
    """Goals → way → the figures of each seed."""
    found: dict[str, Any] = {}
    for goals in GOALS:
        ways: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for seed in range(seeds):
            arrivals = trace(texts, requests, seed, times)
            for name, way in WAYS.items():
                ways[name].append(summary(serve(way, goals, arrivals, seed), goals))
        found[f"{goals.ttft_ms:g} ms, {goals.tpot_ms:g} ms"] = ways
    return {"requests": requests, "seeds": seeds, "goals": found}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a table for each pair of goals."""
    lines = []
    for title, ways in found["goals"].items():
        lines += [
            f"### First token within {title} for each further one\n",
            "| | goodput, requests/s | times without control (least to most) | both goals met | tokens/s | τ "
            "| TTFT ms p50, p95 | TPOT ms p50, p95 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        base = [one["goodput"] for one in ways[BASE]]
        for name, runs in ways.items():
            mean = {key: fmean(one[key] for one in runs) for key in runs[0]}
            ratios = [one["goodput"] / other for one, other in zip(runs, base, strict=True) if other]
            times = f"{fmean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            lines.append(
                f"| {name} | {mean['goodput']:.2f} | {times} | {mean['met']:.0%} | {mean['tokens']:.0f} "
                f"| {mean['tau']:.2f} | {mean['ttft p50']:.0f}, {mean['ttft p95']:.0f} "
                f"| {mean['tpot p50']:.0f}, {mean['tpot p95']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


WORDS: Makers = several(("texts", "arrivals", "results", "markdown")) | several(("requests", "seeds"), int)


def main(words: Sequence[str]) -> None:
    """Simulates, prints, writes what was asked for."""
    options = parsed(words, WORDS)
    if "texts" not in options:
        raise ConfigError("Give texts=FILE of recorded texts; python -m experiments.policies record=FILE makes some.")
    times = _seconds(options["arrivals"]) if "arrivals" in options else ()
    found = compare(read(options["texts"]), options.get("requests", 400), options.get("seeds", 3), times)
    told = table(found)
    print(told)
    publish("experiments.goals", words, options, found, told)


def _seconds(file: Path) -> list[float]:
    """Times of arrivals, from the first one on.

    Raises:
        ConfigError: if a line is no number, or they do not rise.
    """
    try:
        times = [float(line) for line in file.read_text(encoding="utf-8").split()]
    except ValueError as error:
        raise ConfigError(f"{file} has a line that is no number of seconds: {error}.") from error
    if not times or times != sorted(times):
        raise ConfigError(f"{file} must have at least one time, and they must rise.")
    return [each - times[0] for each in times]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
