"""Who drafted when: steps, tokens and seconds by drafter, by category of prompts and along the texts; and the rates of
acceptance that a policy has learnt of each drafter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from specdec.measure.rows import PromptRow
from specdec.policy.base import Policy
from specdec.policy.survival import SurvivalTable
from specdec.stats import DecodingStats

Selection = Iterable[tuple[str | None, Sequence[PromptRow]]]
"""Rows of each category of prompts; of all prompts together under None."""

FIRST_END = 16
"""Tokens of a text's first part. Each further part is as long as all before it, so that a long text has few."""

MOST_KINDS = 32
"""Kinds of nodes that are told of a drafter: those that were seen most."""


def by_drafter(rows: Sequence[PromptRow]) -> list[dict[str, Any]]:
    """A record a category and drafter that did anything there.

    Returns:
        Records of `category` (None: all prompts), `drafter`, and its `steps`, their `share` of all steps,
        `drafted_tokens`, `accepted_tokens`, `output_tokens`, `tau` of its steps, and its `seconds`.
    """
    return [
        {
            "category": category,
            "drafter": entry.name,
            "steps": entry.steps,
            "share": entry.steps / total.passes if total.passes else 0.0,
            "drafted_tokens": entry.drafted_tokens,
            "accepted_tokens": entry.accepted_tokens,
            "output_tokens": entry.output_tokens,
            "tau": entry.mean_accepted_length,
            "seconds": entry.seconds,
        }
        for category, selected in _selections(rows)
        for total in [DecodingStats.total(row.stats for row in selected)]
        for entry in total.by_drafter
    ]


def along_the_text(rows: Sequence[PromptRow]) -> list[dict[str, Any]]:
    """A record a category, part of the texts, and drafter that drafted there.

    Returns:
        Records of `category` (None: all prompts), `part` (its number), `begin` and `end` (the tokens of a text that it
        holds, end not included), `drafter`, its `steps` that began there, and their `share` of all that did.
    """
    records = []
    for category, selected in _selections(rows):
        steps = Counter(
            (part_of(step.anchor - row.turns[step.turn].stats.prompt_tokens), step.drafter)
            for row in selected
            for step in row.steps
        )
        in_part: Counter[int] = Counter()
        for (part, _), count in steps.items():
            in_part[part] += count
        for (part, drafter), count in sorted(steps.items()):
            end = FIRST_END << part
            records.append(
                {"category": category, "part": part, "begin": end // 2 if part else 0, "end": end, "drafter": drafter,
                 "steps": count, "share": count / in_part[part]}
            )  # fmt: skip
    return records


def survival(policy: Policy) -> list[dict[str, Any]]:
    """What a policy with a survival table has learnt of all requests together; nothing of another policy.

    Returns:
        Records of `drafter`, `kind` of node, `rate` (share accepted once the parent was), and `weight` (how many nodes
        speak for it, old ones counting less).
    """
    table = getattr(policy, "survival", None)
    pool = table.pool if isinstance(table, SurvivalTable) else {}
    seen = {(drafter, kind): rate for drafter, rates in pool.items() for kind, rate in rates.items() if rate.tested > 0}
    heaviest: dict[str, list[int]] = {}
    for drafter, kind in sorted(seen, key=lambda key: -seen[key].tested):
        heaviest.setdefault(drafter, []).append(kind)
    return [
        {"drafter": drafter, "kind": kind, "rate": rate.accepted / rate.tested, "weight": rate.tested}
        for drafter in sorted(heaviest)
        for kind in sorted(heaviest[drafter][:MOST_KINDS])
        for rate in [seen[drafter, kind]]
    ]


def part_of(position: int) -> int:
    """Number of the part of a text that holds a position: 0 below `FIRST_END`, 1 up to twice that, and so on.

    >>> [part_of(position) for position in (0, 15, 16, 31, 32, 63, 64)]
    [0, 0, 1, 1, 2, 2, 3]
    """
    return (position // FIRST_END).bit_length()


def _selections(rows: Sequence[PromptRow]) -> Selection:
    yield None, rows
    for category in dict.fromkeys(row.category for row in rows):
        yield category, [row for row in rows if row.category == category]
