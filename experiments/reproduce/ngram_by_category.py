"""N-gram drafts by kind of text (Spec-Bench, Xia et al. 2024; Vicuna-7B: prompt lookup has τ 1.75, speedup 1.66).

Each prompt is decoded plainly and with speculation, in turns: bfloat16, greedy, with the controller. Figures are
medians of the rounds, with the least and the most.
"""

from __future__ import annotations

from typing import Any

from experiments.reproduce.cells import ratio_cell
from experiments.reproduce.options import Options
from experiments.reproduce.rounds import figures
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.measure.compare import compare
from specdec.models.loading import load

TITLE = "N-gram drafts by category"
PUBLISHED = {"tau": 1.75, "speedup": (1.66, 1.64)}
ROUNDS, TOKENS = 3, 96


def run(options: Options) -> dict[str, Any]:
    """Category → τ, α, ratio."""
    prompts = [(one.category, [{"role": "user", "content": one.prompt}]) for one in options.records]
    params = SamplingParams(max_tokens=16 if options.quick else TOKENS)
    config = EngineConfig(num_blocks=1024)
    with SpeculativeGenerator(load(dtype="bfloat16"), "ngram", config=config, policy="product") as generator:
        rounds = [compare(generator, prompts, params).pairs for _ in range(1 if options.quick else ROUNDS)]
    labels = list(dict.fromkeys(label for label, _ in prompts))
    found = {name: figures([[pair for pair in one if pair.label == name] for one in rounds]) for name in labels}
    return {"categories": found, "all": figures(rounds)}


def table(result: dict[str, Any]) -> str:
    """Markdown, the most accepted first."""
    lines = ["| category | prompts | τ | α | ratio to plain (rounds) | 95 % over prompts | identical |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    order = sorted(result["categories"].items(), key=lambda item: -item[1]["tau"])
    for name, one in [*order, ("all", result["all"])]:
        low, high = one["interval"]
        interval = f"{low:.2f} to {high:.2f}" if one["prompts"] > 1 else "one prompt"
        figures = f"{one['tau']:.2f} | {one['alpha']:.2f} | {ratio_cell(one)} | {interval}"
        lines.append(f"| {name} | {one['prompts']} | {figures} | {one['identical']}/{one['prompts']} |")
    first, second = PUBLISHED["speedup"]
    lines += ["", f"Published for all of Spec-Bench: τ {PUBLISHED['tau']}, speedup {first} (A100) and {second} (RTX "
              f"3090); summaries highest, translation lowest. Here {order[0][0]} is highest and {order[-1][0]} lowest. "
              "Our target is another one, and by default the prompts are our own, without translation. So compare the "
              "order of the categories, not the means."]  # fmt: skip
    return "\n".join(lines) + "\n"
