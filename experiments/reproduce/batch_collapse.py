"""The batch size at which speculation stops paying, and at which the controller stops drafting.

A pass of B · (γ + 1) rows costs more than one of B rows as soon as arithmetic is the limit. Published systems lose what
they gained at batch 1. Every batch size decodes the same mixture of prompts, plainly and with speculation, in turns.
Figures are medians over repetitions, with the least and the most. The poor drafter is the target's own first layers,
which seldom guess right.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from experiments.reproduce.cells import ratio_cell
from experiments.reproduce.options import Options
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.measure.compare import Duel
from specdec.measure.metrics import speedup
from specdec.models.loading import LoadedModel, load
from specdec.prompts.subsets import choose
from specdec.stats import DecodingStats

TITLE = "Batch size against speculation"
BATCHES, PROMPTS, TURNS, TOKENS = (1, 2, 4, 8, 16), 4, 3, 48
DRAFTERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "n-gram": ("ngram", {}),
    "poor": ("early_exit", {"num_layers": 6}),
}
"""What it is called → name and options."""


def run(options: Options) -> dict[str, Any]:
    """(drafter, batch, controller) → ratio and drafts."""
    loaded = load(dtype="bfloat16")
    prompts = [one.prompt for one in choose(options.records, PROMPTS)]
    found = []
    for name in DRAFTERS:
        for batch in BATCHES[:2] if options.quick else BATCHES:
            chats = [[{"role": "user", "content": prompts[i % len(prompts)]}] for i in range(max(batch, len(prompts)))]
            for adaptive in (False, True):
                measured = _measured(loaded, name, batch, adaptive, chats, options.quick)
                found.append({"drafter": name, "batch": batch, "adaptive": adaptive, **measured})
    return {"settings": found}


def _measured(
    loaded: LoadedModel, name: str, batch: int, adaptive: bool, chats: list[Any], quick: bool
) -> dict[str, Any]:
    drafter, settings = DRAFTERS[name]
    config, policy = EngineConfig(num_blocks=1536, max_num_seqs=batch), "product" if adaptive else "always"
    params = SamplingParams(max_tokens=8 if quick else TOKENS, ignore_eos=True)
    ratios, total = [], DecodingStats()
    with SpeculativeGenerator(loaded, drafter, drafter_options=settings, config=config, policy=policy) as generator:
        duel = Duel(generator)
        for turn in range(1 if quick else TURNS):
            plain, fast = duel.round(turn, chats, params)
            assert plain is not None
            ratios.append(speedup([one.stats for one in plain], [one.stats for one in fast]))
            total += DecodingStats.total(one.stats for one in fast)
    return {"ratio": median(ratios), "least": min(ratios), "most": max(ratios), "tau": total.mean_accepted_length,
            "drafted": total.drafted_tokens / total.passes}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown: a line a drafter and batch."""
    lines = ["| drafter | batch | ratio, always drafting | drafted a step | ratio, controlled | drafted a step |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, batch in dict.fromkeys((one["drafter"], one["batch"]) for one in result["settings"]):
        cells = [name, str(batch)]
        for one in (one for one in result["settings"] if (one["drafter"], one["batch"]) == (name, batch)):
            cells += [ratio_cell(one), f"{one['drafted']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(_reading(name, result) for name in DRAFTERS)])


def _reading(name: str, result: dict[str, Any]) -> str:
    """What came of one drafter."""
    mine = [one for one in result["settings"] if one["drafter"] == name]
    always, controlled = ([one for one in mine if one["adaptive"] is kind] for kind in (False, True))
    losing = [str(one["batch"]) for one in always if one["ratio"] < 1]
    first, last = controlled[0], controlled[-1]
    return (
        f"{name}: always drafting, it is slower than plain decoding at batch {', '.join(losing) or 'none'}, and its "
        f"lowest ratio is {min(one['ratio'] for one in always):.2f}. With the controller the lowest ratio is "
        f"{min(one['ratio'] for one in controlled):.2f}, at {first['drafted']:.2f} draft tokens a step at batch "
        f"{first['batch']} and {last['drafted']:.2f} at batch {last['batch']}.\n"
    )
