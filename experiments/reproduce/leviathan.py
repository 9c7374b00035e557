"""Theoretical speed and operations, and the T5-XXL predictions (Leviathan et al. 2023, tables 1 and 2).

These are closed forms. Our values must equal the paper's printed digits.
"""

from __future__ import annotations

from typing import Any

from experiments.reproduce.options import Options
from specdec.analysis.theory import operations_factor, speedup_factor

TITLE = "Theory: speed and operations by acceptance"
FACTORS = (
    (0.6, 2, 1.96, 1.53), (0.7, 3, 2.53, 1.58), (0.8, 2, 2.44, 1.23), (0.8, 5, 3.69, 1.63), (0.9, 2, 2.71, 1.11),
    (0.9, 10, 6.86, 1.60),
)  # fmt: skip
"""α, γ, speed, operations, as published at c = ĉ = 0."""
T5_XXL = (
    ("EnDe, T = 0", "small", 0.02, 7, 0.75, 3.4), ("EnDe, T = 0", "base", 0.04, 7, 0.80, 2.8),
    ("EnDe, T = 0", "large", 0.11, 7, 0.82, 1.7), ("EnDe, T = 1", "small", 0.02, 7, 0.62, 2.6),
    ("EnDe, T = 1", "base", 0.04, 5, 0.68, 2.4), ("EnDe, T = 1", "large", 0.11, 3, 0.71, 1.4),
    ("CNNDM, T = 0", "small", 0.02, 5, 0.65, 3.1), ("CNNDM, T = 0", "base", 0.04, 5, 0.73, 3.0),
    ("CNNDM, T = 0", "large", 0.11, 3, 0.74, 2.2), ("CNNDM, T = 1", "small", 0.02, 5, 0.53, 2.3),
    ("CNNDM, T = 1", "base", 0.04, 3, 0.55, 2.2), ("CNNDM, T = 1", "large", 0.11, 3, 0.56, 1.7),
)  # fmt: skip
"""Task, drafter, c, γ, α, and the speedup that was measured on a TPU."""


def run(options: Options) -> dict[str, Any]:
    """Both tables."""
    return {
        "factors": [
            {"alpha": alpha, "gamma": gamma, "published": [speed, operations],
             "ours": [speedup_factor(alpha, gamma, 0.0), operations_factor(alpha, gamma, 0.0)]}
            for alpha, gamma, speed, operations in FACTORS
        ],
        "t5_xxl": [
            {"task": task, "drafter": drafter, "gamma": gamma, "alpha": alpha, "measured": measured,
             "predicted": speedup_factor(alpha, gamma, cost)}
            for task, drafter, cost, gamma, alpha, measured in T5_XXL
        ],
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| α | γ | speed, published | ours | operations, published | ours |", "|---|---|---|---|---|---|"]
    for one in result["factors"]:
        (speed, operations), (our_speed, our_operations) = one["published"], one["ours"]
        figures = f"{speed:.2f} | {our_speed:.2f} | {operations:.2f} | {our_operations:.2f}"
        lines.append(f"| {one['alpha']} | {one['gamma']} | {figures} |")
    exact = sum([round(value, 2) for value in one["ours"]] == one["published"] for one in result["factors"])
    lines += [
        "",
        f"{exact} of {len(result['factors'])} rows equal the printed digits.",
        "",
        "| T5-XXL 11B | drafter | γ | α | measured by the paper | formula |",
        "|---|---|---|---|---|---|",
    ]
    for one in result["t5_xxl"]:
        about = f"{one['task']} | {one['drafter']} | {one['gamma']} | {one['alpha']}"
        lines.append(f"| {about} | {one['measured']} | {one['predicted']:.2f} |")
    above = sum(one["measured"] > one["predicted"] for one in result["t5_xxl"])
    lines += [
        "",
        f"{above} of {len(result['t5_xxl'])} measured speedups are above the formula's with the paper's own α and c. "
        "We reproduce the formula, not the measurements: we have neither the model nor its machine. So we cannot say "
        "whether the implementation or the assumption of independent acceptances makes the difference.",
    ]
    return "\n".join(lines) + "\n"
