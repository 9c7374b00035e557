"""Mistakes made mechanically in the rules' own source: which ones are made, and that the certificate rejects them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from experiments._mutants import mutants

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


@pytest.mark.slow
def test_ten_mutants_of_the_rules_are_killed_or_explained() -> None:
    command = [sys.executable, "-m", "experiments.mutate", "--sample", "10", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNEXPLAINED" not in done.stdout
    assert "% killed" in done.stdout
