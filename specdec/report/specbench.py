"""Runs as Spec-Bench writes them down (Xia et al. 2024), so that its own scripts work on them.

A file holds the answers of one run, one line a question. Its `evaluation/speed.py` compares two files in speed, one of
them plain decoding's; `evaluation/equal.py` compares their texts.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from specdec.errors import ConfigError
from specdec.measure.runs import Run
from specdec.places import write
from specdec.report.methods import methods

PLAIN = "-plain"
"""At the end of the name of a file that holds the plain side of a run."""

Row = Mapping[str, Any]


def write_answers(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes a file for each run that is done, by its name, and one for its plain side, if it has one.

    Args:
        runs: of a study.
        folder: where they go.

    Returns:
        The files.

    Raises:
        ConfigError: if no run is done, or one was written before turns were kept.
    """
    done = [method for method in methods(runs) if method.done]
    if not done:
        raise ConfigError("No job of this study is done, so there are no answers. Run its command again.")
    files = []
    for method in done:
        sides = [("", method.label)]
        if all(row["plain_stats"] is not None for row in method.run.rows):
            sides.append((PLAIN, f"plain decoding beside {method.label}"))
        for ending, name in sides:
            path = folder / f"{method.run.name}{ending}.jsonl"
            lines = answers(method.run, name, plain=bool(ending))
            write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            files.append(path)
    return files


def answers(run: Run, model_id: str, plain: bool = False) -> list[dict[str, Any]]:
    """Lines of one file, in the order of the run's prompts.

    Args:
        run: that is done.
        model_id: what to call it.
        plain: its plain side instead of that with the drafter.

    Raises:
        ConfigError: if it was written before turns were kept.
    """
    if any("turns" not in row for row in run.rows):
        raise ConfigError(f"{run.folder} is of an older specdec, which kept no turns. Run its study with rerun=true.")
    steps: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for step in sorted(run.steps, key=lambda step: int(step["step"])):
        steps[step["index"], step["turn"]].append(step)
    began = datetime.fromisoformat(run.environment["started"]).timestamp()
    return [
        {
            "question_id": int(name) if (name := row["question_id"]).isdecimal() else name,
            "category": row["kind"] or row["category"],
            "answer_id": hashlib.sha256(f"{run.name} {model_id} {name}".encode()).hexdigest()[:22],
            "model_id": model_id,
            "choices": [_choice(row["turns"], [steps[row["index"], turn] for turn in range(len(row["turns"]))], plain)],
            "tstamp": began,
        }
        for row in run.rows
    ]


def _choice(turns: Sequence[Row], steps: Sequence[Sequence[Row]], plain: bool) -> dict[str, Any]:
    """The answers to all turns of a question."""
    side = "plain_" if plain else ""
    stats = [turn[f"{side}stats"] for turn in turns]
    lengths = (
        [1] * of["output_tokens"] if plain else _lengths(each, of) for each, of in zip(steps, stats, strict=True)
    )
    return {
        "index": 0,
        "turns": [turn[f"{side}text"].strip() for turn in turns],
        "decoding_steps": [of["passes"] for of in stats],
        "new_tokens": [of["output_tokens"] for of in stats],
        "wall_time": [_seconds(of) for of in stats],
        "accept_lengths": [length for of_turn in lengths for length in of_turn],
    }


def _lengths(steps: Sequence[Row], stats: Row) -> list[int]:
    """Tokens that each step of a turn adds: from its anchor to the next one, or to the end."""
    end = stats["prompt_tokens"] + stats["output_tokens"]
    return [after - before for before, after in pairwise([*(step["anchor"] for step in steps), end])]


def _seconds(stats: Row) -> float:
    """From the question to the end of the answer: the clock of Spec-Bench counts the reading of the prompt."""
    parts = ("prefill_seconds", "draft_seconds", "verify_seconds", "host_seconds")
    return float(sum(stats[part] for part in parts))
