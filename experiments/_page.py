"""What became of the mutants, as a table and as docs/mutation.md."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments._judges import FATES, RULE_SECONDS
from experiments._rooms import BY_HAND, ROOMS, RULE_FILES
from specdec.measure.markdown import table

REASONS: dict[str, list[str]] = json.loads(Path(__file__).with_name("explained.json").read_text(encoding="utf-8"))
EXPLAINED = {key: reason for reason, keys in REASONS.items() for key in keys}
"""Mutant that no check can reject → why: it does the same thing in another way."""


@dataclass(frozen=True)
class Row:
    """One mutant and its fate.

    Args:
        mark: of its text.
        part: the file's name.
        key: what was changed.
        line: where.
        fate: one of FATES.
        test: the first test that failed, or "".
    """

    mark: str
    part: str
    key: str
    line: int
    fate: str
    test: str = ""


def show(rows: Sequence[Row]) -> None:
    """Prints the table, the rate, and who survived."""
    lines = list(_table(rows))
    table = Table(*lines[0])
    for line in lines[1:]:
        table.add_row(*line)
    Console(width=120).print(table)
    print(rate(rows))
    for row in rows:
        if row.fate == "survived":
            print(f"{row.line:4} {row.key}\n     {EXPLAINED.get(row.key, 'UNEXPLAINED')}")


def rate(rows: Sequence[Row]) -> str:
    """How many of all are killed, and of those that are not equivalent."""
    lived = [row for row in rows if row.fate == "survived"]
    equal = sum(row.key in EXPLAINED for row in lived)
    killed = len(rows) - len(lived)
    return (
        f"{_percent(killed, len(rows))} killed; {equal} of {len(lived)} survivors are explained, "
        f"{_percent(killed, len(rows) - equal)} of the others are killed"
    )


def document(rows: Sequence[Row], before: Sequence[Row]) -> str:
    """docs/mutation.md.

    Args:
        rows: as things are.
        before: as they were; of the same mutants, as far as they are there.
    """
    kinds = {"rules": list(RULE_FILES), "rooms": list(ROOMS), "hand": [BY_HAND]}
    told: dict[str, str] = {}
    for kind, names in kinds.items():
        mine = [row for row in rows if row.part in names]
        told[kind] = table(list(_table(mine, before))) + f"\n\n{rate(mine)}." if mine else "Not in this run."
    lived: dict[str, list[Row]] = {}
    for row in rows:
        if row.fate == "survived":
            lived.setdefault(EXPLAINED.get(row.key, "UNEXPLAINED"), []).append(row)
    listed = (f"{why}\n\n" + "\n".join(f"- {row.line}: {row.key}" for row in group) for why, group in lived.items())
    command = shlex.join(["python", "-m", "experiments.mutate", *sys.argv[1:]])
    return DOCUMENT.format(command=command, seconds=RULE_SECONDS, survivors="\n\n".join(listed), **told)


def _table(rows: Sequence[Row], before: Sequence[Row] = ()) -> Iterator[list[str]]:
    """The heading, each file, the sum."""
    fates = [fate for fate in (*FATES[1:], FATES[0]) if fate == FATES[0] or any(row.fate == fate for row in rows)]
    yield ["file", "mutants", *fates, "killed", *(["before"] if before else [])]
    for part in (*dict.fromkeys(row.part for row in rows), "all"):
        mine = [row for row in rows if part in (row.part, "all")]
        counts = Counter(row.fate for row in mine)
        line = [part, str(len(mine)), *(str(counts[fate]) for fate in fates), _killed(mine)]
        yield [*line, _killed_before(mine, before)] if before else line


def _killed_before(rows: Sequence[Row], before: Sequence[Row]) -> str:
    """Of the same mutants."""
    keys = {row.key for row in rows}
    then = [row for row in before if row.key in keys]
    return f"{_killed(then)} of {len(then)}" if then else ""


def _killed(rows: Sequence[Row]) -> str:
    return _percent(sum(row.fate != "survived" for row in rows), len(rows))


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


DOCUMENT = """# Mutation tests

Made by `{command}`.

Do the tests notice small mistakes? A program changes the source by one operator, number, index, name, stream, call or
statement at a time (`experiments/_mutants.py`). Each changed source, a *mutant*, is tested in a process of its own. If
no test fails, the mutant survives. Survivors are listed below, with the reason why no test can tell them from the
original, or as UNEXPLAINED.

*Killed* is the share of all mutants, including those that do the same as the original. *Before* is the share that the
tests killed before the last round of new tests, of the mutants that existed then.

## Rules

A mutant changes the code of a rule, or the distribution that it states. The quick certificate of the rules that use the
file must reject it.

{rules}

*Law*: the stated distribution is not the target's. *Faces*: the code does not follow it. *Exception*, *timeout*
({seconds} s of processor time): instead of either. *Acceptance*: lossless, but another mean number of accepted tokens.
*Tests*: only the rules' unit tests notice it, the certificate does not.

## Rooms

The tests of the room must fail (`experiments/_rooms.py` says which).

{rooms}

*Exception*: the module cannot be loaded. *Timeout*: a test takes more than four times as long as the slowest one does.

## By hand

These are mistakes that people make (`experiments/by_hand.json`). They change more than one operator, and are chosen to
be hard to see. The tests that are named with each must fail.

{hand}

## Survivors

{survivors}
"""
