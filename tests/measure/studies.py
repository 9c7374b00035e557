"""A study made by hand: runs as `load_runs` gives them, with figures that a reader can check."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Any

from specdec.measure.runs import Run

PROMPTS = [
    ("dialogue", "d1", "Name three rivers in Europe."),
    ("summary", "s1", "Sum up: the river rose, the bridge was closed, the town waited."),
    ("summary", "s2", "Sum up: the train was late, the train was full, the train was cold."),
]
# What is emitted in each step: pieces, for each whether the drafter proposed it, and what the target refused.
STEPS: list[tuple[list[str], list[bool], str | None]] = [
    (["The"], [False], None),
    ([" river", " rose", ","], [True, True, False], "."),
    ([" and", " the", " bridge", " was", " closed", "."], [True, True, True, True, True, False], None),
    (["\n", "The"], [True, False], " It"),
    ([" town"], [False], " river"),
    ([" waited", " for", " the", " water"], [True, True, True, False], " rain"),
    ([" to", " fall", "."], [True, True, False], "\n"),
]
CERTIFICATE = {
    "rule": "token", "lossless": True, "law_equal": True, "faces_agree": True, "largest_deviation": "0",
    "passed": True, "settings": 41, "failure": "", "witness": "",
}  # fmt: skip


def scalars(speedup: float | None, tau: float, alpha: float, **others: Any) -> dict[str, Any]:
    """The figures of some prompts."""
    plain = None if speedup is None else 20.0
    return {
        "prompts": 3, "output_tokens": 60, "tau": tau, "alpha": alpha, "tokens_per_second": 20.0 * (speedup or 1.0),
        "plain_tokens_per_second": plain, "speedup": speedup,
        "speedup_low": speedup and speedup - 0.1, "speedup_high": speedup and speedup + 0.125,
        "credible": speedup is None or speedup <= tau, "predicted_speedup": speedup and 0.5 + 0.75 * speedup,
        "cost_ratio": speedup and 0.02, "drafting_cost": speedup and 0.05,
        "speedup_with_prefill": speedup and speedup - 0.05, "drafter_memory_mb": 1.5,
        "draft_share": 0.125, "verify_share": 0.75, "host_share": 0.125,
        "drafted_tokens": 40, "wasted_tokens": 10, "wasted_share": 0.25, "identical": None, "comparable": 0,
        "ttft_ms": 41.5, "itl_p50_ms": 21.0, "itl_p95_ms": 33.0, "itl_p99_ms": 40.0, "kv_occupancy": 0.4,
        "kv_waste": 0.05, "peak_memory_mb": 812.0, **others,
    }  # fmt: skip


def environment(**others: Any) -> dict[str, Any]:
    """What a run keeps of its machine and code."""
    return {
        "machine": "Some CPU, 2 torch threads of 2 CPUs; Python 3.11, torch 2.13", "cpu": "Some CPU", "gpu": None,
        "threads": 2, "versions": {"python": "3.11", "torch": "2.13"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "command": "specdec study -m drafter=none,ngram,model study=rivers",
        "started": "2030-01-02T03:04:05+00:00", "side_by_side": False, **others,
    }  # fmt: skip


def summary(metrics: dict[str, Any], share: float, positions: int = 4, **others: Any) -> dict[str, Any]:
    """What a job sums up; acceptance falls from `share` on by a twentieth a position."""
    conditional = [share - 0.05 * position for position in range(positions)]
    cumulative = list(accumulate(conditional, mul))
    reached = [1.0, *cumulative, 0.0]
    drafting = metrics["drafted_tokens"] > 0
    return {
        "metrics": metrics, "by_category": {},
        "acceptance_by_position": conditional if drafting else [],
        "cumulative_acceptance_by_position": cumulative if drafting else [],
        "acceptance_histogram": [round(400 * (a - b)) for a, b in pairwise(reached)],
        "tv_by_position": [], "calibration": [], "cost_curve": None, "certificate": CERTIFICATE,
        "by_drafter": [], "along_the_text": [], "survival": [], **others,
    }  # fmt: skip


def run(name: str, axes: dict[str, Any], told: dict[str, Any], **others: Any) -> Run:
    """A run that is done, with the same three texts as all others."""
    rows = [
        {"index": index, "category": category, "question_id": question, "prompt": prompt, "text": "".join(t)}
        for index, (category, question, prompt) in enumerate(PROMPTS)
        for t in [[piece for pieces, _, _ in steps_of(index) for piece in pieces]]
    ]
    steps = [
        {"index": index, "step": number, "anchor": 9, "drafted": 5, "tested": 5, "accepted": sum(proposed),
         "texts": pieces, "proposed": proposed, "rejected": rejected, "drafter": "ngram"}
        for index in range(len(PROMPTS))
        for number, (pieces, proposed, rejected) in enumerate(steps_of(index))
    ]  # fmt: skip
    values = {"status": "done", "error": None, "config": {}, "environment": environment(), "rows": rows, "steps": steps}
    return Run(folder=Path("rivers") / name, axes=axes, summary=told, **{**values, **others})


def steps_of(index: int) -> Sequence[tuple[list[str], list[bool], str | None]]:
    """Of prompt `index`: each has one step less than the one before."""
    return STEPS[: len(STEPS) - index]


def choices(category: str | None, **steps: tuple[int, float]) -> list[dict[str, Any]]:
    """Drafter → its steps on a category of prompts, and τ of those."""
    total = sum(count for count, _ in steps.values())
    return [
        {"category": category, "drafter": name, "steps": count, "share": count / total, "tau": tau}
        for name, (count, tau) in steps.items()
    ]


def places(category: str | None, part: int, **steps: int) -> list[dict[str, Any]]:
    """Drafter → its steps that began in a part of the texts."""
    where = {"category": category, "part": part, "begin": (0, 16, 32)[part], "end": (16, 32, 64)[part]}
    return [where | {"drafter": name, "steps": n, "share": n / sum(steps.values())} for name, n in steps.items()]


def axes(drafter: str, rule: str, gamma: int | None) -> dict[str, Any]:
    """In what the runs differ, and one thing in which they do not."""
    return {"drafter": drafter, "rule": rule, "num_draft_tokens": gamma, "temperature": 0.8}


def unfinished(name: str, where: dict[str, Any], error: str | None) -> Run:
    """A run without figures."""
    status = "unfinished" if error is None else "failed"
    return run(name, where, {}, status=status, error=error, rows=[], steps=[])


def study() -> list[Run]:
    """Seven runs: four good ones, one whose speedup cannot be true, one that failed and one that was stopped."""
    curve = {"rows": [1, 2, 4, 8, 16], "seconds": [0.02, 0.0208, 0.0224, 0.0256, 0.034]}
    calibration = [{"confidence": 0.1 * i, "accepted": 0.085 * i + 0.05, "count": 10 * i} for i in range(1, 10)]
    more = {"cost_curve": curve, "calibration": calibration, "tv_by_position": [0.25, 0.3, 0.375, 0.4]}
    kinds = {
        "dialogue": scalars(1.25, 1.5, 0.5, prompts=1, identical=1, comparable=1),
        "summary": scalars(1.875, 2.5, 0.8, prompts=2, identical=2, comparable=2),
    }
    ngram = scalars(1.625, 2.125, 0.7, identical=3, comparable=3)
    steady = [0.9, 0.85, 0.8, 0.75]
    return [
        run("none", axes("none", "gumbel", None), summary(
            scalars(None, 1.0, 0.0, drafted_tokens=0, draft_share=0.0, verify_share=0.9375, host_share=0.0625), 0.0)),
        run("ngram-3", axes("ngram", "gumbel", 3), summary(
            ngram, 0.8, 3, by_category=kinds, certificate={**CERTIFICATE, "rule": "gumbel"}, cost_curve=curve)),
        run("ngram-5", axes("ngram", "gumbel", 5), summary(
            scalars(1.5, 2.25, 0.6, identical=3, comparable=3), 0.7, 5, cost_curve=curve)),
        run("model-token", axes("model", "token", 4), summary(
            scalars(1.125, 2.75, 0.75, draft_share=0.375, verify_share=0.5), 0.85, **more)),
        run("model-block", axes("model", "block", 4), summary(
            scalars(3.5, 3.0, 0.8125, draft_share=0.375, verify_share=0.5), 0.9,
            tv_by_position=[1 - share for share in steady])),
        unfinished("early_exit-block", axes("early_exit", "block", 4),
                   "Traceback (most recent call last):\nConfigError: num_layers=40 exceeds the target's 30."),
        unfinished("early_exit-token", axes("early_exit", "token", 4), None),
    ]  # fmt: skip
