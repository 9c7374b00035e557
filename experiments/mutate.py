"""Makes every small mistake in a source file, one at a time, and reports which ones its checks find.

python -m experiments.mutate [--files token cache/paged] [--sample N] [--every N] [--jobs 2] [--results F]
    [--markdown F]

Each mutant is judged in a process of its own: one of a rule by the quick certificate of the rules that use the file,
any other by the tests of its room (`experiments/_rooms.py`), the quick ones first. With `--results` what is found is
kept in a file, line by line: a run that was ended goes on where it was, and `--again` judges the survivors anew, after
more tests were written. Exits with 1 if a mutant survives that `experiments/explained.json` does not explain.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from experiments import _page as page
from experiments._judges import ByTests, Found
from experiments._mutants import Mutant
from experiments._processes import Task, judge_all
from experiments._rooms import NAMES, Part, parts

WARM = ("specdec.models.loading", "transformers.models.llama.modeling_llama", "pytest", "scipy.stats")
"""Loaded here, once, and not by every child."""


@dataclass(frozen=True)
class Results:
    """What is known of mutants, in memory and in a file of JSON lines.

    Args:
        found: by the mark of the mutant.
        file: where it is kept, or None.
    """

    found: dict[str, page.Row]
    file: Path | None

    @classmethod
    def read(cls, file: Path | None) -> Results:
        """What a file holds; a later line replaces an earlier one."""
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        rows = [page.Row(**json.loads(line)) for line in lines]
        return cls({row.mark: row for row in rows}, file)

    def add(self, row: page.Row) -> None:
        """Keeps one."""
        self.found[row.mark] = row
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(vars(row), ensure_ascii=False) + "\n")


def mark(mutant: Mutant) -> str:
    """Its name in results: another one as soon as anything in the file has changed."""
    return hashlib.sha256("\0".join((mutant.key, mutant.source)).encode()).hexdigest()[:16]


def sampled(mistakes: Sequence[Mutant], count: int | None) -> list[Mutant]:
    """So many of them, the same ones whatever else changes in the file."""
    if count is None or count >= len(mistakes):
        return list(mistakes)
    chosen = {m.key for m in sorted(mistakes, key=lambda m: hashlib.sha256(m.key.encode()).digest())[:count]}
    return [mutant for mutant in mistakes if mutant.key in chosen]


def run(part: Part, chosen: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, Found]]:
    """Judges mutants of one file, after the file as it is.

    Raises:
        SystemExit: if that is rejected: nothing can be said of its mutants.
    """
    if not chosen:
        return
    [(_, control)] = judge_all([Task(part.control, part.judge)], 1)
    if control.fate != "survived":
        sys.exit(f"{part.control.file} as it stands is rejected: {control.fate} {control.test}. Mend that first.")
    judge = part.judge
    if isinstance(judge, ByTests):
        judge = replace(judge, seconds=2 + 4 * control.slowest)
    for task, found in judge_all([Task(mutant, judge) for mutant in chosen], jobs):
        yield task.mutant, found


def main() -> None:
    """Prints the table and the survivors; exits with 1 if one is not explained."""
    options = _options()
    torch.set_num_threads(1)  # tensors of three numbers
    for name in WARM:
        importlib.import_module(name)
    results, rows = Results.read(options.results), list[page.Row]()
    for part in [part for name in options.files for part in parts(name)][:: options.every]:
        chosen = sampled(part.mistakes, options.sample)
        known = {
            mark(mutant) for mutant in chosen
            if (row := results.found.get(mark(mutant))) and not (options.again and row.fate == "survived")
        }  # fmt: skip
        unknown = [mutant for mutant in chosen if mark(mutant) not in known]
        judged = run(part, unknown, options.jobs)
        for mutant, found in track(judged, part.name, len(unknown), console=Console(stderr=True)):
            results.add(page.Row(mark(mutant), part.name, mutant.key, mutant.line, found.fate, found.test))
        rows += [results.found[mark(mutant)] for mutant in chosen]
    page.show(rows)
    if options.markdown:
        before = Results.read(options.before).found.values() if options.before else ()
        options.markdown.write_text(page.document(rows, list(before)), encoding="utf-8")
    sys.exit(any(row.fate == "survived" and row.key not in page.EXPLAINED for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=list(NAMES), choices=list(NAMES), metavar="FILE", help="names")
    parser.add_argument("--sample", type=int, help="only so many mutants of each file, the same every time")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth file, or mistake made by hand")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--results", type=Path, help="keep what is found in this file, and do not look for it twice")
    parser.add_argument("--again", action="store_true", help="judge those anew that survived")
    parser.add_argument("--markdown", type=Path, help="write the page to this file")
    parser.add_argument("--before", type=Path, help="results of an earlier state, for the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
