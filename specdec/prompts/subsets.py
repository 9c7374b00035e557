"""Which of many prompts are taken, and what names the choice."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence

from specdec.errors import ConfigError
from specdec.prompts.records import PromptRecord


def choose(
    records: Sequence[PromptRecord], limit: int | None = None, subset: str = "even", seed: int = 0
) -> list[PromptRecord]:
    """At most `limit` of the prompts, in their order; all of them if it is None.

    Args:
        records: to choose from.
        limit: how many.
        subset: a name of `SUBSETS`.
        seed: of the random subset.
    """
    return list(records) if limit is None else SUBSETS[subset](records, limit, seed)


def _first(records: Sequence[PromptRecord], limit: int, seed: int) -> list[PromptRecord]:
    """The first `limit`."""
    return list(records[:limit])


def _even(records: Sequence[PromptRecord], limit: int, seed: int) -> list[PromptRecord]:
    """At most `limit`, as evenly from all categories as there are prompts, and from all kinds in a category; in their
    order."""
    kinds = _occurrences([record.kind or record.category for record in records])
    by_kind = sorted(range(len(records)), key=lambda index: (kinds[index], index))
    turns = zip(_occurrences([records[index].category for index in by_kind]), by_kind, strict=True)
    return [records[index] for index in sorted(index for _, index in sorted(turns)[:limit])]


def _occurrences(names: Sequence[str]) -> list[int]:
    """For each name, how often it has come before.

    >>> _occurrences(["a", "b", "a"])
    [0, 0, 1]
    """
    seen: Counter[str] = Counter()
    counts = []
    for name in names:
        counts.append(seen[name])
        seen[name] += 1
    return counts


def _random(records: Sequence[PromptRecord], limit: int, seed: int) -> list[PromptRecord]:
    """`limit` of them drawn without replacement, in their order; the same for the same seed."""
    chosen = random.Random(seed).sample(range(len(records)), min(limit, len(records)))
    return [records[index] for index in sorted(chosen)]


SUBSETS: dict[str, Callable[[Sequence[PromptRecord], int, int], list[PromptRecord]]] = {
    "even": _even,
    "first": _first,
    "random": _random,
}


def of_categories(records: Sequence[PromptRecord], categories: Sequence[str]) -> list[PromptRecord]:
    """Those of the given categories, or of the given kinds within a category.

    Raises:
        ConfigError: for a category that no prompt has.
    """
    known = sorted({name for record in records for name in (record.category, record.kind) if name is not None})
    if isinstance(categories, str):
        raise ConfigError(f"categories={categories} cannot work: a list is asked for. Write [{categories}].")
    if unknown := sorted(set(categories) - set(known)):
        raise ConfigError(f"No prompt has the category {unknown[0]!r}. There are: {', '.join(known)}.")
    return [record for record in records if {record.category, record.kind} & set(categories)]


def fingerprint(records: Sequence[PromptRecord]) -> str:
    """16 hexadecimal digits that name these prompts, in this order."""
    told = json.dumps([[record.question_id, record.category, *record.turns] for record in records])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
