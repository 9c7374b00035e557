"""Mistakes made mechanically in source: which ones are made, who judges them, and what is said of them."""

from __future__ import annotations

import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import specdec.errors
from experiments._judges import ByTests, Found
from experiments._mutants import Mutant, mutants
from experiments._page import EXPLAINED, Row, document, rate
from experiments._processes import MEMORY, Task, judge_all
from experiments._rooms import BY_HAND, ROOMS, parts, test_files
from experiments.mutate import Results, mark, sampled

SOURCE = '''
"""Module."""
from x import Stream
SAME = "p - q"


class Rule:
    """p + q."""

    trees = False

    def accept(self, p: tuple[int, ...], q: int) -> float:
        """p * q."""
        for i in range(3):
            if p[i] < q:
                continue
            return normalized(p)
        if not p:
            raise ValueError(f"{p + 1} > 0")
        return min(p, self.u(Stream.DRAFT))
'''


def changes(source: str) -> set[tuple[str, str]]:
    return {(mutant.before, mutant.after) for mutant in mutants(source, "x.py")}


def test_what_is_changed() -> None:
    """All there is to change in the text above: nothing in messages, docstrings, types, imports."""
    loop, test, back, minimum = (
        "for i in range(3):",
        "if p[i] < q:",
        "return normalized(p)",
        "return min(p, self.u(Stream.DRAFT))",
    )
    assert changes(SOURCE) == {
        ("trees = False", "trees = True"),
        (loop, "for i in range(4):"),
        *((test, after) for after in ("if p[i] <= q:", "if p[i] > q:", "if q[i] < q:", "if p[i] < p:")),
        *((test, after) for after in ("if p[i + 1] < q:", "if p[i - 1] < q:")),
        ("continue", "pass"),
        *((back, after) for after in ("pass", "return p", "return normalized(q)")),
        *(("if not p:", after) for after in ("if p:", "if not q:")),
        (minimum, "return max(p, self.u(Stream.DRAFT))"),
        (minimum, "return min(q, self.u(Stream.DRAFT))"),
        *((minimum, f"return min(p, self.u(Stream.{other}))") for other in ("ACCEPT", "RESIDUAL", "BONUS")),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = a + b", {"x = a - b"}),
        ("x = a / b", {"x = a * b", "x = a"}),
        ("x = ONE", {"x = 0"}),
        ("x = -a", {"x = a"}),
        ("x = 1", {"x = 0", "x = 2"}),
        ("x = rows[1:n]", {f"x = rows[{s}]" for s in ("1 + 1:n", "1 - 1:n", "1:n + 1", "1:n - 1")}),
        ("x = positive_part(a, b)", {"x = a", "x = positive_part(b, a)"}),
        (
            "x = exact_positive_part(a, b, w)",
            {"x = a", "x = exact_positive_part(b, a, w)", "x = exact_positive_part(a, b)"},
        ),
        ("x = torch.clamp(a, min=b)", {"x = a"}),
        ("x = normalized((a for a in b))", {"x = tuple((a for a in b))"}),
        ("x = q.clone()", {"x = q"}),
        ("x = a and b", {"x = a or b"}),
        ("x = a if b else c", {"x = a if not b else c"}),
        ("x = zip(a, b, strict=True)", set()),
        ("x = list[int]()", set()),
    ],
)
def test_how_an_expression_is_changed(before: str, after: set[str]) -> None:
    assert changes(before) == {(before, text) for text in after}


def test_a_variable_is_never_left_without_a_value() -> None:
    source = "for i in a:\n    x = i\n    y = a\n    y = i\n"
    assert ("x = i", "pass") not in changes(f"def f(a):\n{source}".replace("\n", "\n    "))
    assert ("y = i", "pass") in changes(f"def f(a):\n{source}".replace("\n", "\n    "))


def test_mutants_that_read_the_same_have_names_of_their_own() -> None:
    source = "def f(x):\n    if x:\n        return x\n    while x:\n        return x\n"
    keys = [mutant.key for mutant in mutants(source, "x.py")]
    assert len(keys) == len(set(keys))
    assert "x.py f: `return x` → `pass #2`" in keys


def test_every_mutant_can_be_compiled() -> None:
    for mutant in mutants(SOURCE, "x.py"):
        compile(mutant.source, mutant.file, "exec")


def test_statements_that_change_something_are_left_out_and_those_that_name_something_are_not() -> None:
    source = "def f(self, a):\n    self.x = a\n    a[0] = 1\n    self.n += 1\n    b = a\n    g(a)\n    return b\n"
    left_out = {before for before, after in changes(source) if after == "pass"}
    assert left_out == {"self.x = a", "a[0] = 1", "self.n += 1", "g(a)"}


def test_the_same_mutants_are_sampled_whatever_else_changes() -> None:
    chosen = {mutant.key for mutant in sampled(mutants(SOURCE, "x.py"), 5)}
    more = SOURCE + "\ndef other(a: int) -> int:\n    return 0\n"
    assert len(chosen) == 5
    assert chosen >= {mutant.key for mutant in sampled(mutants(more, "x.py"), 5)} - {
        mutant.key for mutant in mutants("def other(a: int) -> int:\n    return 0\n", "x.py")
    }
    assert sampled(mutants(SOURCE, "x.py"), None) == mutants(SOURCE, "x.py")


def test_results_are_kept_and_a_changed_file_is_judged_anew(tmp_path: Path) -> None:
    one, other = mutants(SOURCE, "x.py")[:2]
    results = Results.read(tmp_path / "found.jsonl")
    results.add(Row(mark(one), "x", one.key, one.line, "survived"))
    results.add(Row(mark(one), "x", one.key, one.line, "tests", "test_x"))
    again = Results.read(tmp_path / "found.jsonl")
    assert again.found == {mark(one): Row(mark(one), "x", one.key, one.line, "tests", "test_x")}
    assert mark(other) not in again.found
    assert mark(replace(one, source=one.source + "# more")) not in again.found


def test_the_page_counts_by_hand_and_shows_what_was_before() -> None:
    rows = [
        Row("1", "cache/pool", "a", 1, "tests"),
        Row("2", "cache/pool", "b", 2, "survived"),
        Row("3", "cache/pool", next(iter(EXPLAINED)), 3, "survived"),
        Row("4", "token", "d", 4, "law"),
    ]
    before = [replace(rows[0], fate="survived"), rows[3]]
    assert rate(rows) == "50.0% killed; 1 of 2 survivors are explained, 66.7% of the others are killed"
    page = document(rows, before)
    assert "| cache/pool | 3 | 1 | 2 | 33.3% | 0.0% of 1 |" in page
    assert "| token | 1 | 1 | 0 | 100.0% | 100.0% of 1 |" in page
    assert "UNEXPLAINED" in page


def test_every_room_has_tests_and_every_mistake_made_by_hand_is_in_its_file() -> None:
    for room, listed in ROOMS.items():
        assert test_files(listed), room
    assert len(list(parts(BY_HAND))) >= 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--files", "token", "--sample", "4"],
        ["--files", "cache/blocks", "--sample", "4"],
        ["--files", BY_HAND, "--every", "6"],
    ],
    ids=lambda options: options[1],
)
def test_mutants_are_killed_or_explained(options: list[str], tmp_path: Path) -> None:
    """And a second run has nothing left to do."""
    kept = tmp_path / "found.jsonl"
    command = [sys.executable, "-m", "experiments.mutate", *options, "--jobs", "1", "--results", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNEXPLAINED" not in done.stdout
    assert "% killed" in done.stdout
    known = kept.read_text(encoding="utf-8")
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert kept.read_text(encoding="utf-8") == known


@pytest.mark.parametrize(
    ("source", "fate"),
    [("x = 1\n", "survived"), ("x = 2\n", "tests"), ("raise ValueError\n", "exception"),
     ("x = 3\n", "timeout"), ("x = 4\n", "timeout"), ("x = 5\n", "timeout")],
)  # fmt: skip
def test_what_becomes_of_a_mutant(source: str, fate: str, tmp_path: Path) -> None:
    """In a module of the package, judged by a test that passes, fails, computes for ever, waits for ever, or kills."""
    found = judged(
        source,
        "import os, signal, specdec.errors as m\n"
        "def test_x():\n"
        "    while m.x == 3: pass\n"
        "    if m.x == 4: signal.pause()\n"
        "    if m.x == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    assert m.x == 1\n",
        tmp_path,
        seconds=0.2 if fate == "timeout" else 60.0,
    )
    assert found.fate == fate
    assert (found.test != "") == (fate == "tests")


@pytest.mark.parametrize(("size", "fate"), [(0, "survived"), (MEMORY, "tests")])
def test_a_mutant_may_take_the_same_memory_whatever_its_parent_holds(size: int, fate: str, tmp_path: Path) -> None:
    """The test maps a mebibyte more than the size; nothing is written, so that only addresses are taken."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    test = f"import mmap, specdec.errors as m\ndef test_x(): mmap.mmap(-1, m.x + 2**20, {flags}, mmap.PROT_READ)\n"
    with mmap.mmap(-1, MEMORY + 2**30, flags, mmap.PROT_READ):
        assert judged(f"x = {size}\n", test, tmp_path).fate == fate


def judged(source: str, test: str, folder: Path, seconds: float = 60.0) -> Found:
    """What becomes of a mutant that adds the source to a module, when this test judges it, in so much time."""
    (folder / "test_x.py").write_text(test, encoding="utf-8")
    original = Path(specdec.errors.__file__).read_text(encoding="utf-8")
    mutant = Mutant("errors.py", 1, "", "", "", original + source)
    [(_, found)] = judge_all([Task(mutant, ByTests([str(folder / "test_x.py")], seconds=seconds))], jobs=1)
    return found
