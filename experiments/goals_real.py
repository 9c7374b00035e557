"""Does the order of `experiments.goals` hold in a real run? The same requests, simulated and for real.

python -m experiments.goals_real texts=FILE [requests=100] [seeds=1] [results=docs/results/goals-real.json]
    [markdown=docs/goals.md]

`texts` were recorded by `python -m experiments.policies record=FILE` with the embedded model in bfloat16, on a machine
that gives the same bits. Both use the curve of passes that is measured here. The ways take turns, pass by pass, each
by its own clock (`experiments._playing`): however fast the machine is at the moment, it is so for all of them.
Arrivals and goals are stretched as much as passes take longer here than `experiments.policies.CURVE` says, so that
every machine has the same load for its speed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from scipy.stats import kendalltau

from experiments._playing import RealServer, in_turns
from experiments._results import publish
from experiments._texts import Text, read
from experiments._words import Makers, parsed, several
from experiments.goals import BASE, GOALS, WAYS, Way, config_of, drafter_of, serve, summary, trace
from experiments.policies import CURVE
from specdec import Goals
from specdec.errors import ConfigError
from specdec.measure.markdown import table
from specdec.models.loading import LoadedModel, load
from specdec.paths import cache_dir
from specdec.policy.cost import cost_curve
from specdec.policy.curve import ROWS, CostCurve

HEAD = "## A real run\n"
PLAYED = (
    BASE, "fixed: batch 4, γ 4", "fixed: batch 16, γ 4", "Clipper's batch, γ 4", "SmartSpec's γ",
    "ours, first come first served", "ours",
)  # fmt: skip
"""Ways that are compared."""


def server(loaded: LoadedModel, curve: CostCurve, way: Way, goals: Goals) -> RealServer:
    """That serves in this way."""
    return RealServer(loaded, drafter_of(way), way.policy(curve), way.pace(goals, curve), config_of(way))


def compare(loaded: LoadedModel, texts: Sequence[Text], requests: int, seeds: int) -> dict[str, Any]:
    """Way → the figures of each seed, real and simulated."""
    curve = cost_curve(loaded.model, cache_dir())
    stretch = fmean(curve(rows, 0, 1) / CURVE(rows, 0, 1) for rows in ROWS)
    ttft, tpot = (round(stretch * goal) for goal in (GOALS[0].ttft_ms, GOALS[0].tpot_ms) if goal is not None)
    goals = Goals(ttft, tpot)
    ways: dict[str, dict[str, list[dict[str, float]]]] = {name: {"real": [], "simulated": []} for name in PLAYED}
    for seed in range(seeds):
        arrivals = [replace(one, at=stretch * one.at) for one in trace(texts, requests, seed)]
        real = in_turns({name: server(loaded, curve, WAYS[name], goals) for name in PLAYED}, arrivals)
        for name, rows in ways.items():
            rows["real"].append(summary(real[name], goals))
            rows["simulated"].append(summary(serve(WAYS[name], goals, arrivals, seed, curve), goals))
            print(seed, name, {kind: f"{each[-1]['goodput']:.3f}" for kind, each in rows.items()}, flush=True)
    return {"requests": requests, "seeds": seeds, "stretch": stretch, "goals": [ttft, tpot], "ways": ways}


def agreement(found: Mapping[str, Any]) -> float:
    """Kendall's τ-b of the ways' goodputs, real against simulated: 1 for the same order, -1 for the opposite one."""
    real, other = ([_mean(rows[kind], "goodput") for rows in found["ways"].values()] for kind in ("real", "simulated"))
    return float(kendalltau(real, other).statistic)


def told(found: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [["", "goodput, requests/s: real", "simulated", "both goals met: real", "simulated", "τ: real", "simulated",
             "TTFT ms p50, p95: real", "simulated", "TPOT ms p50, p95: real", "simulated"]]  # fmt: skip
    for name, kinds in found["ways"].items():
        both = [kinds["real"], kinds["simulated"]]
        rows.append([
            name,
            *(f"{_mean(one, 'goodput'):.2f}" for one in both),
            *(f"{_mean(one, 'met'):.0%}" for one in both),
            *(f"{_mean(one, 'tau'):.2f}" for one in both),
            *(f"{_mean(one, 'ttft p50'):.0f}, {_mean(one, 'ttft p95'):.0f}" for one in both),
            *(f"{_mean(one, 'tpot p50'):.0f}, {_mean(one, 'tpot p95'):.0f}" for one in both),
        ])  # fmt: skip
    ttft, tpot = found["goals"]
    return (
        f"{table(rows)}\n\nFirst token within {ttft:g} ms, {tpot:g} ms for each further one; arrivals and goals times "
        f"{found['stretch']:.2f}. {found['requests']} requests, seeds: {found['seeds']}. The two orders agree by "
        f"Kendall's τ-b of {agreement(found):.2f}.\n"
    )


def _mean(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return fmean(one[key] for one in runs)


WORDS: Makers = several(("texts", "results", "markdown")) | several(("requests", "seeds"), int)


def main(words: Sequence[str]) -> None:
    """Runs, prints, writes what was asked for."""
    options = parsed(words, WORDS)
    if "texts" not in options:
        raise ConfigError("Give texts=FILE of recorded texts; python -m experiments.policies record=FILE makes some.")
    loaded = load(dtype="bfloat16")
    found = compare(loaded, read(options["texts"]), options.get("requests", 100), options.get("seeds", 1))
    text = told(found)
    print(text)
    publish("experiments.goals_real", words, options, found, text, HEAD)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
