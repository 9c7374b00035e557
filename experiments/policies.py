"""What each policy loses to the best fixed drafter in hindsight, over recorded texts and without a clock.

python -m experiments.policies texts=FILE [limit=240] [batch=1] [results=docs/results/policies.json]
    [markdown=docs/policies.md] [plot=docs/policies.svg]
python -m experiments.policies record=FILE [data=PROMPTS] [limit=240]

A pass takes what `CURVE` says and a drafter what `PRICES` says, so that the figures are the same on every machine.
Texts come in two orders: mixed, and one category after another. In a third run a drafter of nonsense is among the arms.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from experiments._results import publish
from experiments._simulation import Simulation, Step
from experiments._texts import Text, read, record, save
from experiments._words import Makers, parsed, several
from specdec.drafters.base import Drafter
from specdec.drafters.ngram import NgramDrafter
from specdec.errors import ConfigError
from specdec.policy.base import Policy
from specdec.policy.curve import ROWS, CostCurve
from specdec.registry import DRAFTERS, POLICIES
from specdec.testing import PoisonDrafter

CURVE = CostCurve(ROWS, tuple(0.010 * times for times in (1, 1.02, 1.12, 1.3, 1.45, 1.75, 2.5, 3.2, 4.8, 6.3)))
"""SmolLM2-135M in bfloat16 on two cores, about (docs/performance.md)."""
PRICES = {"ngram": 1e-4, "suffix": 1.4e-4, "recycling": 1e-4, "poison": 8e-5}
"""Seconds that a drafter takes for one request on that machine, about, with what it takes to weigh its draft: 0.8 to
1.4 % of a pass. Much of it is Python between two passes, whose code and data the pass has driven out of the caches."""
CHOOSERS = ("always", "product", "select", "merge", "hedge", "exp4", "ucb", "exp3")
SEED = 5


def arms(poisoned: bool = False) -> list[Drafter]:
    """Drafters without training, and without a store or rows that a target would have to make first."""
    own: list[Drafter] = [NgramDrafter(), DRAFTERS.create("suffix"), DRAFTERS.create("recycling", first=False)]
    return [PoisonDrafter(), *own] if poisoned else own


@dataclass(frozen=True)
class Study:
    """What is simulated.

    Args:
        texts: recorded ones.
        limit: most texts.
        batch: texts at a time.
    """

    texts: Sequence[Text]
    limit: int = 240
    batch: int = 1

    def orders(self) -> dict[str, list[Text]]:
        """Scenario → texts in their order."""
        mixed = list(self.texts)
        Random(SEED).shuffle(mixed)
        mixed = mixed[: self.limit]
        return {"mixed": mixed, "by category": sorted(mixed, key=lambda text: text.category), "poisoned": mixed}

    def run(self) -> dict[str, Any]:
        """Scenario → fixed drafters and policies → their courses."""
        found = {}
        for scenario, texts in self.orders().items():
            poisoned = scenario == "poisoned"
            fixed = {one.name: self.course(texts, [one], "product") for one in arms(poisoned)}
            chosen = {name: self.course(texts, arms(poisoned), name) for name in CHOOSERS}
            found[scenario] = {"fixed": fixed, "policies": chosen}
        return {"texts": min(self.limit, len(self.texts)), "batch": self.batch, "scenarios": found}

    def course(self, texts: Sequence[Text], drafters: list[Drafter], policy: str) -> dict[str, Any]:
        """One run: after each text, in the order of their beginnings, all tokens and seconds."""
        return summary(list(Simulation(drafters, made(policy), CURVE, PRICES, self.batch).run(texts)), len(texts))


def made(policy: str) -> Policy:
    """A policy that knows the curve, as far as it takes one."""
    options = {} if policy == "always" else {"curve": CURVE}
    created: Policy = POLICIES.create(policy, **options)
    return created


def summary(steps: Sequence[Step], num_texts: int) -> dict[str, Any]:
    """Figures of a run.

    Returns:
        seconds and plain: by text, running totals, of the run and of plain decoding (one pass a token, of this batch);
        tau: tokens a request and step; shares: steps by the drafter that was verified, "" for none.
    """
    seconds, tokens = [0.0] * num_texts, [0] * num_texts
    for step in steps:
        seconds[step.text] += step.seconds
        tokens[step.text] += step.tokens
    names = sorted({step.drafter for step in steps})
    return {
        "seconds": list(accumulate(seconds)),
        "tokens": list(accumulate(tokens)),
        "tau": sum(tokens) / len(steps),
        "shares": {name: sum(step.drafter == name for step in steps) / len(steps) for name in names},
    }


def plain(course: dict[str, Any], batch: int) -> list[float]:
    """Seconds of plain decoding, by text, running totals; full batches all the time."""
    return [tokens * CURVE(batch) / batch for tokens in course["tokens"]]


def regrets(scenario: dict[str, Any], name: str) -> list[float]:
    """Seconds after each text, less those of the fixed drafter that is best up to there, as a share of the latter."""
    best = [min(times) for times in zip(*(each["seconds"] for each in scenario["fixed"].values()), strict=True)]
    return [own / other - 1 for own, other in zip(scenario["policies"][name]["seconds"], best, strict=True)]


def table(found: dict[str, Any]) -> str:
    """Markdown: a line a fixed drafter and a policy, for each scenario."""
    lines = []
    for title, scenario in found["scenarios"].items():
        lines += [f"### Texts {title}\n" if title != "poisoned" else "### Mixed, with a drafter of nonsense\n"]
        lines += [
            "| | τ | times plain | seconds above the best fixed drafter | who was verified |",
            "|---|---|---|---|---|",
        ]
        best = min(each["seconds"][-1] for each in scenario["fixed"].values())
        for kind, courses in (("fixed: ", scenario["fixed"]), ("", scenario["policies"])):
            for name, course in courses.items():
                times = plain(course, found["batch"])[-1] / course["seconds"][-1]
                above = course["seconds"][-1] / best - 1
                who = ", ".join(f"{drafter or 'nobody'} {share:.0%}" for drafter, share in course["shares"].items())
                lines.append(f"| {kind}{name} | {course['tau']:.2f} | {times:.3f} | {above:+.1%} | {who} |")
        lines.append("")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Regret by texts, a panel a scenario, a line a policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(found["scenarios"]), sharey=True)
    for axes, (title, scenario) in zip(panels, found["scenarios"].items(), strict=True):
        for name in scenario["policies"]:
            curve = regrets(scenario, name)
            axes.plot(range(1, len(curve) + 1), [100 * each for each in curve], label=name)
        axes.axhline(0.0, color="grey", linewidth=0.8)
        axes.set_title(title)
        axes.set_xlabel("texts")
        axes.set_ylim(-25, 60)
    panels[0].set_ylabel("time above the best fixed drafter, %")
    panels[-1].legend()
    figure.savefig(path, metadata={"Date": None})


WORDS: Makers = {
    **several(("texts", "record", "data", "results", "markdown", "plot")),
    **several(("limit", "batch"), int),
}


def main(words: Sequence[str]) -> None:
    """Records or simulates, prints, writes what was asked for."""
    options = parsed(words, WORDS)
    if ("texts" in options) == ("record" in options):
        raise ConfigError("Give texts=FILE of recorded texts to simulate, or record=FILE to make some.")
    limit = options.get("limit", 240)
    if "record" in options:
        from specdec.models.loading import load
        from specdec.prompts import load_prompts

        save(record(load(dtype="bfloat16"), load_prompts(options.get("data"))[:limit]), options["record"])
        return
    found = Study(read(options["texts"]), limit, options.get("batch", 1)).run()
    told = table(found)
    print(told)
    publish("experiments.policies", words, options, found, told)
    if "plot" in options:
        draw(found, options["plot"])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
