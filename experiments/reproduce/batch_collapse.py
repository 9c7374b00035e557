"""Where batches make speculation stop paying, and where the controller stops drafting.

A pass of B · (γ + 1) rows costs more than one of B as soon as arithmetic binds (methods like Liu et al. 2024 adapt γ).
Plain and speculative decoding of the same batch in turns; medians over repetitions.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from experiments.reproduce.options import Options
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.models.loading import load
from specdec.tracking.compare import Duel
from specdec.tracking.metrics import DecodingStats, credible, speedup

TITLE = "Batch size against speculation"
BATCHES = (1, 2, 4, 8, 16)


def run(options: Options) -> dict[str, Any]:
    """(batch, controller) → ratio and drafts."""
    loaded = load(dtype="bfloat16")
    records = options.records
    found = []
    for batch in BATCHES[:2] if options.quick else BATCHES:
        chats = [[{"role": "user", "content": records[i % len(records)].prompt}] for i in range(batch)]
        for adaptive in (False, True):
            config = EngineConfig(num_blocks=1536, max_num_seqs=batch, adaptive=adaptive)
            with SpeculativeGenerator(loaded, "ngram", config=config) as generator:
                found.append({"batch": batch, "adaptive": adaptive, **_measured(Duel(generator), chats, options)})
    return {"settings": found}


def _measured(duel: Duel, chats: list[Any], options: Options) -> dict[str, Any]:
    params = SamplingParams(max_tokens=8 if options.quick else 48, ignore_eos=True)
    ratios, total = [], DecodingStats()
    for turn in range(1 if options.quick else 3):
        plain, fast = duel.round(turn, chats, params)
        assert plain is not None
        ratios.append(speedup([one.stats for one in plain], [one.stats for one in fast]))
        total += DecodingStats.total(one.stats for one in fast)
    return {"ratio": median(ratios), "least": min(ratios), "most": max(ratios), "tau": total.mean_accepted_length,
            "drafted": total.drafted_tokens / total.passes}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown: a line a batch."""
    lines = ["| batch | ratio, always drafting | drafted a step | ratio, with the controller | drafted a step |",
             "|---|---|---|---|---|"]  # fmt: skip
    for batch in dict.fromkeys(one["batch"] for one in result["settings"]):
        cells = [str(batch)]
        for one in (one for one in result["settings"] if one["batch"] == batch):
            ratio = f"{one['ratio']:.2f} ({one['least']:.2f} to {one['most']:.2f})"
            cells += [ratio if credible(one["ratio"], one["tau"]) else "> τ: measure again", f"{one['drafted']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    drafted = {one["batch"]: one["drafted"] for one in result["settings"] if one["adaptive"]}
    first, last = min(drafted), max(drafted)
    lines += ["", f"With the controller a sequence drafts {drafted[first]:.2f} tokens a step at batch {first}, and "
              f"{drafted[last]:.2f} at batch {last}."]  # fmt: skip
    return "\n".join(lines) + "\n"
