"""What a verdict costs, beside the target pass that it belongs to.

python -m benchmarks.acceptance [--json FILE] [--repeats 25] [--context 128]

Eight sequences, five draft tokens each, float32 logits over 49,152 tokens: the embedded model verifies them in one
pass, and every rule judges them in one call. Every draft token is accepted, so that every row is looked at and a bonus
token is drawn. Pass and rules take turns within a repetition; the median of each repetition's shares is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.passes import seconds
from specdec.cache.paged import PagedCache
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.loading import load
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.sampling import probabilities
from specdec.verify.base import Rule, StepKey
from specdec.verify.tree import DraftTree

BATCH, GAMMA = 8, 5
GOAL = 0.05
GOAL_RULES = ("greedy", "token", "gumbel")
CERTAIN = 40.0
"""What is added to a deterministic draft token's score: it is accepted whatever the random number."""


def target_pass(model: CausalLM, context: int) -> Callable[[], Tensor]:
    """A pass that verifies every sequence's draft, float32 [BATCH · (GAMMA + 1), V]."""
    cache = PagedCache(model.kv_layout, num_blocks=BATCH * -(-(context + GAMMA + 1) // 16))
    generator = torch.Generator().manual_seed(0)

    def run(rows: int) -> Tensor:
        parts = []
        for sequence in range(BATCH):
            cache.reserve(sequence, rows)
            tokens = torch.randint(1000, 40000, (rows,), generator=generator).tolist()
            parts.append(SequenceRows(tokens, cache.slots(sequence), cache.length(sequence), logit_rows=range(rows)))
        return model.run(RaggedBatch.build(parts), cache.target).logits

    for sequence in range(BATCH):
        cache.add(sequence)
    run(context)
    for sequence in range(BATCH):
        cache.commit(sequence, context)
    return lambda: run(GAMMA + 1)


def judging(rule: Rule, logits: Tensor, drawn: bool) -> Callable[[], int]:
    """Judges all drafts in one call; returns how many tokens were accepted.

    Args:
        rule: the rule.
        logits: float32 [BATCH · (GAMMA + 1), V].
        drawn: drafts come with q, which is p; otherwise they are deterministic.
    """
    scores = [rows.clone() for rows in logits.split(GAMMA + 1)]
    keys = [StepKey(RandomSource(seed), anchor=100) for seed in range(BATCH)]
    trees = []
    for rows, key in zip(scores, keys, strict=True):
        q = probabilities(rows[:GAMMA]) if drawn else None
        tokens = [int(row.argmax()) for row in rows[:GAMMA]]
        if q is None:
            rows[range(GAMMA), tokens] += CERTAIN
        else:
            tokens = [rule.draw(row, key, depth, [depth])[0][0] for depth, row in enumerate(rows[:GAMMA])]
        trees.append(DraftTree.chain(tokens, q))
    return lambda: sum(len(verdict.path) for verdict in rule.accept(trees, scores, keys))


@torch.inference_mode()
def measure(context: int, repeats: int) -> dict[str, dict[str, float]]:
    """Rule and draft → medians of milliseconds and of the share of the pass, and the range of the share."""
    run = target_pass(load().model, context)
    logits = run()
    calls: dict[str, Callable[[], int]] = {}
    for name in RULES.names():
        rule = RULES.create(name)
        calls[f"{name}, deterministic"] = judging(rule, logits, drawn=False)
        if rule.needs_q and rule.lossless:
            calls[f"{name}, drawn from q"] = judging(rule, logits, drawn=True)
    for name, call in calls.items():
        assert call() == BATCH * GAMMA, name
    rounds = []
    for _ in range(repeats + 2):  # the first two warm up
        whole = seconds(run)
        rounds.append((whole, {name: seconds(call) for name, call in calls.items()}))
    rounds = rounds[2:]
    results = {"target pass": {"ms": 1e3 * median(whole for whole, _ in rounds)}}
    for name in calls:
        shares = [times[name] / whole for whole, times in rounds]
        results[name] = {
            "ms": 1e3 * median(times[name] for _, times in rounds),
            "share": median(shares),
            "least": min(shares),
            "most": max(shares),
        }
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| rule, draft | ms | share of the pass (range) | goal |", "|---|---|---|---|"]
    for name, result in results.items():
        if "share" not in result:
            continue
        judged = name.endswith("deterministic") and name.partition(",")[0] in GOAL_RULES
        goal = f"≤ {GOAL:.0%}: {'met' if result['share'] <= GOAL else 'missed'}" if judged else ""
        spread = f"{result['share']:.2%} ({result['least']:.2%} to {result['most']:.2%})"
        lines.append(f"| {name} | {result['ms']:.2f} | {spread} | {goal} |")
    shape = f"{BATCH} sequences × {GAMMA + 1} rows, float32; the pass takes {results['target pass']['ms']:.1f} ms."
    return "\n".join([shape, "", *lines]) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    results = measure(args.context, args.repeats)
    print(machine(), "", table(results), sep="\n")
    save(args.json, "benchmarks.acceptance", results, context=args.context, repeats=args.repeats)


if __name__ == "__main__":
    main()
