"""Block against token verification (Sun et al., ICLR 2025, abstract: 5 to 8 % faster by the clock).

Both rules judge the same recorded drafts, at every position of the target's own texts. The two drafters are the
target's own first layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.reproduce.options import BETTER, LAYERS, Options
from specdec.analysis.traces import Trace, TraceStep
from specdec.measure.metrics import bootstrap_interval
from specdec.proof import cases
from specdec.proof.bounds import joint_prefix_bound
from specdec.proof.exact import expected_accepted
from specdec.registry import RULES
from specdec.sampling import probabilities
from specdec.stats import DecodingStats

TITLE = "Block against token verification"
GAMMAS = (2, 4, 8)
PUBLISHED, LEAST = "5 to 8 %", 0.05
"""By the clock, which cannot gain more than τ does."""
REPLAYS = 2


def run(options: Options) -> dict[str, Any]:
    """τ of both rules by drafter and γ, with the gain and its interval over texts; and the exact vector."""
    replays = 1 if options.quick else REPLAYS
    traces: dict[int, Callable[[], Trace]] = {
        LAYERS: lambda: options.trace,
        BETTER: lambda: options.recorded(BETTER),
    }
    return {
        "exact": _exact(),
        "replays": replays,
        "drafters": {str(layers): _compared(trace(), replays) for layers, trace in traces.items()},
    }


def _exact() -> dict[str, str]:
    """Accepted draft tokens on the first test vector, as fractions."""
    setting = cases.first_vector()
    assert setting.q is not None
    found = {name: expected_accepted(RULES.create(name), setting) for name in ("token", "block")}
    found["bound"] = joint_prefix_bound(setting.p, setting.q, 2)
    return {name: str(value) for name, value in found.items()}


@torch.inference_mode()
def chances(step: TraceStep) -> np.ndarray:
    """Chance that i + 1 draft tokens are kept, given the first i: Σ min(q, P·p), where `token` has
    P_i = Π min(1, p/q), `block` P_i = min(1, P_{i-1}·p/q), and both P_0 = 1.

    P_i is the chance that prefix i is kept, whatever is drafted after it. The means over drafts are the rules' own,
    with less chance in them than verdicts have, and on every single draft `block` has at least what `token` has.

    Args:
        step: a chain with q, which is left as it is.

    Returns:
        [2, γ]: `token`, `block`.
    """
    kept = np.zeros((2, len(step.tree)))
    token = block = 1.0
    for i, x in enumerate(step.tree.tokens):
        p, q = probabilities(step.scores[i]), step.tree.q_below(i - 1)
        assert q is not None
        kept[:, i] = token * float(torch.minimum(p, q).sum()), float(torch.minimum(block * p, q).sum())
        ratio = float(p[x]) / float(q[x])
        token, block = token * min(1.0, ratio), min(1.0, block * ratio)
    return kept


def _compared(trace: Trace, replays: int) -> dict[str, Any]:
    kept = np.zeros((len(trace.texts), 2, trace.info.num_draft_tokens))
    passes = np.zeros(len(trace.texts))
    for step in trace.steps:
        kept[step.request, :, : len(step.tree)] += chances(step)
        passes[step.request] += 1
    gains = []
    for gamma in GAMMAS:
        tokens = passes[:, None] + kept[:, :, :gamma].sum(-1)
        token, block = tokens.sum(0) / passes.sum()
        low, high = bootstrap_interval(tokens, lambda token, block: block / token - 1)
        observed = {rule: _replayed(trace, rule, gamma, replays) for rule in ("token", "block")}
        gains.append({"gamma": gamma, "token": float(token), "block": float(block), "gain": float(block / token - 1),
                      "low": low, "high": high, "observed": observed})  # fmt: skip
    drafting = sum(len(step.tree) > 0 for step in trace.steps)
    return {"positions": len(trace.steps), "texts": len(trace.texts), "alpha": float(kept[:, 0, 0].sum() / drafting),
            "gains": gains}  # fmt: skip


def _replayed(trace: Trace, rule: str, gamma: int, replays: int) -> float:
    """τ of the rule's own verdicts."""
    runs = [trace.replay(rule, seed=seed, num_draft_tokens=gamma) for seed in range(replays)]
    return DecodingStats.total(runs).mean_accepted_length


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    token, block = result["exact"]["token"], result["exact"]["block"]
    lines = [
        f"Exactly, on p = (1/3, 2/3), q = (2/3, 1/3), γ = 2: {token} (token) and {block} (block) accepted draft "
        f"tokens, and {result['exact']['bound']} at most; published 10/9, 11/9 and 12/9.",
        "",
        "| drafter | α | γ | τ, token (replayed) | τ, block (replayed) | gain in τ (95 %) | published, clock |",
        "|---|---|---|---|---|---|---|",
    ]
    for layers, drafter in result["drafters"].items():
        for one in drafter["gains"]:
            seen = one["observed"]
            lines.append(
                f"| {layers} layers | {drafter['alpha']:.2f} | {one['gamma']} | "
                f"{one['token']:.3f} ({seen['token']:.3f}) | {one['block']:.3f} ({seen['block']:.3f}) | "
                f"{one['gain']:+.1%} ({one['low']:+.1%} to {one['high']:+.1%}) | {PUBLISHED} |"
            )
    return "\n".join([*lines, "", _reading(result)]) + "\n"


def _reading(result: dict[str, Any]) -> str:
    first, *_ = result["drafters"].values()
    lines = [(one["gain"], one["gamma"], layers) for layers, of in result["drafters"].items() for one in of["gains"]]
    reached, (gain, gamma, layers) = sum(line[0] >= LEAST for line in lines), max(lines)
    return (
        f"{first['positions']} positions of {first['texts']} texts a drafter. τ is the exact mean given the drafts. "
        f"In brackets is the mean of {result['replays']} replays, which also has the chance of verdicts. {reached} of "
        f"{len(lines)} lines gain enough in τ for the published gain by the clock, which is for other models, tasks "
        f"and drafters. The largest gain is {gain:.1%}, for γ = {gamma} and {layers} layers. α is that of the first "
        "draft token. The 95 % intervals are over texts."
    )
