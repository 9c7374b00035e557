"""Makes every small mistake in the rules' source, one at a time, and reports which ones their certificate rejects.

python -m experiments.mutate [--files block.py token.py] [--sample N] [--markdown docs/mutation.md]

Each mutant is judged in a process of its own, by the quick certificate of the rules that use the file, cheapest part
first. Exits with 1 if a mutant survives that `experiments/explained.json` does not explain.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import hypothesis  # noqa: F401 - loaded here, once, and not by every child
import pytest
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import specdec.models.loading
import specdec.verify
from experiments._mutants import Mutant, mutants
from specdec.proof.certify import check_laws, examine, sampled_settings, settings_for
from specdec.proof.exact import deviation, expected_accepted, joint_law, target_law, trajectories
from specdec.proof.simulate import simulate
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.verify.base import Rule

USERS = {
    "draws": ("multiround", "rrs", "gumbel"),
    "residuals": ("multiround", "block"),
    "nodewise": ("multiround", "rrs"),
    "races": ("gumbel",),
    **{
        name: (name,)
        for name in ("token", "block", "multiround", "rrs", "kseq", "traversal", "hsd", "gumbel", "typical", "greedy")
    },
}
"""File → rules that run all of it. In the order of imports: those after a mutated one are loaded anew."""
FATES = ("survived", "law", "faces", "exception", "timeout", "acceptance", "tests")
CPU_SECONDS = 12
"""For one rule; the slowest needs a quarter of it."""
MEMORY = 8 << 30
PROBES = 40
TESTS = ("tests/verify/test_rules.py", "tests/verify/test_rounding.py", "tests/verify/test_races.py")
REASONS: dict[str, list[str]] = json.loads(Path(__file__).with_name("explained.json").read_text(encoding="utf-8"))
EXPLAINED = {key: reason for reason, keys in REASONS.items() for key in keys}
"""Mutant that no certificate can reject → why: it does the same thing in another way."""
Acceptance = dict[tuple[str, str], Fraction]
"""(rule, setting) → expected accepted tokens."""


def killed_by(rules: Sequence[str], acceptance: Acceptance) -> str:
    """Examines the rules as they are loaded now; the first part that finds something is named."""
    for check in (_law, _probe, _faces, _acceptance):
        for name in rules:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            rule: Rule = RULES.create(name)
            if fate := check(rule, acceptance):
                return fate
    return "survived" if _tests_pass() else "tests"


def _law(rule: Rule, acceptance: Acceptance) -> str:
    for setting in settings_for(rule, quick=True):
        check_laws(rule, setting)
        if rule.lossless and deviation(joint_law(rule, setting), target_law(setting, rule.emits)):
            return "law"
    return ""


def _probe(rule: Rule, acceptance: Acceptance) -> str:
    """A few plain runs: what the law says cannot happen shows at once."""
    for setting, num_steps in sampled_settings(rule, quick=True):
        if rule.name == "gumbel":
            continue
        stated = trajectories(rule, setting, num_steps)
        if any(not stated.get(simulate(rule, setting, RandomSource(seed), num_steps)) for seed in range(PROBES)):
            return "faces"
    return ""


def _faces(rule: Rule, acceptance: Acceptance) -> str:
    settings = sampled_settings(rule, quick=True)
    return "" if all(examine(rule, setting, num_steps, 2000).agrees for setting, num_steps in settings) else "faces"


def _acceptance(rule: Rule, acceptance: Acceptance) -> str:
    """Lossless still, but not as good as documented."""
    return "" if expected(rule).items() <= acceptance.items() else "acceptance"


def _tests_pass() -> bool:
    """What no certificate looks at: which numbers are asked for, who keeps whose tensors, what is refused."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return pytest.main(["-q", "-x", "-p", "no:cacheprovider", *TESTS]) == 0


def expected(rule: Rule) -> Acceptance:
    """How many draft tokens the rule keeps in the quick settings."""
    return {(rule.name, setting.name): expected_accepted(rule, setting) for setting in settings_for(rule, quick=True)}


def judge(mutant: Mutant, acceptance: Acceptance) -> int:
    """Starts a process that loads the mutant and exits with its fate; returns its id."""
    if child := os.fork():
        return child
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        name = mutant.file.removesuffix(".py")
        exec(compile(mutant.source, mutant.file, "exec"), vars(_module(name)))
        for later in [*list(USERS)[list(USERS).index(name) + 1 :], "select"]:
            importlib.reload(_module(later))
        fate = killed_by(USERS[name], acceptance)
    except Exception:
        fate = "exception"
    os._exit(FATES.index(fate))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{specdec.verify.__name__}.{name}")


def judge_all(chosen: Sequence[Mutant], processes: int, acceptance: Acceptance) -> list[str]:
    """The fate of each mutant."""
    fates, running = [""] * len(chosen), dict[int, int]()
    waiting = iter(enumerate(chosen))
    for _ in track(chosen, "Judging", console=Console(stderr=True)):
        while len(running) < processes and (following := next(waiting, None)):
            running[judge(following[1], acceptance)] = following[0]
        process, status = os.wait()
        fates[running.pop(process)] = "timeout" if os.WIFSIGNALED(status) else FATES[os.WEXITSTATUS(status)]
    return fates


def source(name: str) -> str:
    """The rule file as it stands."""
    return (Path(specdec.verify.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")


def main() -> None:
    """Prints the table and the survivors; exits with 1 if one is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=list(USERS), choices=list(USERS), metavar="FILE", help="names")
    parser.add_argument("--sample", type=int, help="only so many mutants, the same every time")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="write the document to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # tensors of three numbers
    chosen = [mutant for name in options.files for mutant in mutants(source(name), f"{name}.py")]
    controls = [Mutant(f"{name}.py", 0, "", "", "", source(name)) for name in options.files]
    if options.sample:
        chosen, controls = random.Random(0).sample(chosen, options.sample), controls[-1:]
    acceptance = {key: value for name in RULES.names() for key, value in expected(RULES.create(name)).items()}
    if killed := {fate for fate in judge_all(controls, options.processes, acceptance) if fate != "survived"}:
        sys.exit(f"The rules as they stand are rejected by {killed}: nothing can be said of mutants.")
    fates = judge_all(chosen, options.processes, acceptance)
    rows, rate = list(_rows(chosen, fates)), f"{sum(f != 'survived' for f in fates) / len(fates):.1%} killed"
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=100).print(table)
    print(rate)
    survivors = [mutant for mutant, fate in zip(chosen, fates, strict=True) if fate == "survived"]
    for mutant in survivors:
        print(f"{mutant.line:4} {mutant.key}\n     {EXPLAINED.get(mutant.key, 'UNEXPLAINED')}")
    if options.markdown:
        options.markdown.write_text(_document(rows, rate, survivors), encoding="utf-8")
    sys.exit(any(mutant.key not in EXPLAINED for mutant in survivors))


def _rows(chosen: Sequence[Mutant], fates: Sequence[str]) -> Iterator[list[str]]:
    """The heading, each file, the sum."""
    columns = [*FATES[1:], FATES[0]]
    yield ["file", "mutants", *columns]
    counts = Counter((mutant.file, fate) for mutant, fate in zip(chosen, fates, strict=True))
    for file in dict.fromkeys(mutant.file for mutant in chosen):
        numbers = [counts[file, fate] for fate in columns]
        yield [file, str(sum(numbers)), *map(str, numbers)]
    yield ["all", str(len(fates)), *(str(list(fates).count(fate)) for fate in columns)]


def _document(rows: Sequence[Sequence[str]], rate: str, survivors: Sequence[Mutant]) -> str:
    """docs/mutation.md."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    reasons: dict[str, list[Mutant]] = {}
    for mutant in survivors:
        reasons.setdefault(EXPLAINED.get(mutant.key, "UNEXPLAINED"), []).append(mutant)
    listed = (f"{why}\n\n" + "\n".join(f"- {m.line}: {m.key}" for m in group) for why, group in reasons.items())
    return DOCUMENT.format(
        command=shlex.join(["python", "-m", "experiments.mutate", *sys.argv[1:]]),
        table="\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]),
        rate=rate,
        seconds=CPU_SECONDS,
        survivors="\n\n".join(listed),
    )


DOCUMENT = """# Small mistakes in the rules

Made by `{command}`.

Every rule's source is changed mechanically, one operator, number, index, name, stream, call or statement at a time
(`experiments/_mutants.py`), in both faces: what a rule does and the law that it states. The quick certificate of the
rules that use the file must reject the result.

{table}

{rate}. *Law*: the exact law is not the target's. *Faces*: the tensors do not do what the law states. *Exception*,
*timeout* ({seconds} s of processor time): instead of either. *Acceptance*: lossless, but another mean number of
accepted tokens. *Tests*: the certificate sees nothing, the rules' unit tests do.

## Survivors

{survivors}
"""

if __name__ == "__main__":
    main()
