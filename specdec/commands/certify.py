"""Certifies every acceptance rule: its exact distribution against the target's, and its code against its proof.

specdec certify [quick=true] [json=FILE] [rules=[block,token]]
specdec certify markdown=docs/losslessness.md mutants=tests.mutants     # makes that document

Exits with 1 if a rule falls short: a lossless one whose distribution is not the target's, or any whose code is not what
it states.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from specdec.commands.application import application
from specdec.commands.progress import shown
from specdec.errors import ConfigError
from specdec.foreign import foreign
from specdec.places import check_writable, write
from specdec.proof import cases
from specdec.proof.certify import Certificate, certify
from specdec.proof.exact import expected_accepted
from specdec.registry import RULES
from specdec.verify.base import Rule

COLUMNS = ("rule", "declared", "distribution equal", "largest deviation", "code matches the proof", "settings",
           "accepted, first vector", "share of the bound", "seconds")  # fmt: skip


def _certify(config: DictConfig) -> None:
    """Examines the rules, prints a table, writes what was asked for."""
    torch.set_num_threads(1)  # tensors of three numbers
    names = list(config.rules) if config.rules is not None else RULES.names()
    certificates = [certify(RULES.create(name), config.quick) for name in shown(names, "rules")]
    table = Table(*COLUMNS)
    for certificate in certificates:
        table.add_row(*_cells(certificate))
    Console(width=None if sys.stdout.isatty() else 120).print(table)  # in a file lines need not be short
    print(_first_vector())
    for certificate in certificates:
        for line in _shortcomings(certificate):
            print(line)
    if config.json is not None:
        records = [_record(certificate) for certificate in certificates]
        write(Path(config.json), json.dumps(records, indent=1) + "\n")
    if config.markdown is not None:
        write(Path(config.markdown), _document(certificates, _mutants(config), config.command))
    sys.exit(0 if all(certificate.passed for certificate in certificates) else 1)


def _check(config: DictConfig) -> None:
    """Raises ConfigError for what would be refused after minutes of work."""
    for name in config.rules or ():
        RULES.get(name)
    _mutants(config)
    for setting in ("json", "markdown"):
        check_writable(setting, config[setting])


def _mutants(config: DictConfig) -> Sequence[Rule]:
    if config.mutants is None:
        return []
    with foreign(ConfigError, f"mutants={config.mutants!r} cannot be used", "Give a module with a list MUTANTS."):
        mutants: Sequence[Rule] = import_module(config.mutants).MUTANTS
    return mutants


def _cells(certificate: Certificate) -> list[str]:
    first = next((law.accepted for law in certificate.laws if law.setting == cases.first_vector().name), None)
    shares = [law.share for law in certificate.laws if law.share is not None]
    return [
        certificate.rule,
        "lossless" if certificate.declared_lossless else "LOSSY",
        "yes" if certificate.law_equal else "no",
        f"{float(certificate.largest_deviation):.3g}" if certificate.largest_deviation else "0",
        "yes" if certificate.faces_agree else "NO",
        f"{len(certificate.laws)} + {len(certificate.sampled)}",
        "–" if first is None else str(first),
        f"{min(shares):.0%} to {max(shares):.0%}" if shares else "–",
        f"{certificate.seconds:.1f}",
    ]


def _first_vector() -> str:
    """The three fractions that everyone can check by hand."""
    setting = cases.first_vector()
    token, block = (expected_accepted(RULES.create(name), setting) for name in ("token", "block"))
    [law] = [law for law in certify(RULES.create("token"), settings=[setting]).laws if law.bound is not None]
    return f"First test vector: {token} (token), {block} (block), {law.bound} (bound; = 12/9)"


def _shortcomings(certificate: Certificate) -> list[str]:
    """The witness first, then every setting in which the rule falls short."""
    lines = [f"{certificate.rule}: {certificate.witness}"] if certificate.witness else []
    if certificate.declared_lossless:
        unequal = [law for law in certificate.laws if law.deviation]
        lines += [f"{certificate.rule}, {law.setting}: off by {law.deviation}" for law in unequal]
    disagreeing = [result for result in certificate.sampled if not result.agrees]
    return lines + [f"{certificate.rule}, {r.setting}: {r.method}, {r.deviation:.3g}" for r in disagreeing]


def _record(certificate: Certificate) -> dict[str, Any]:
    """A certificate as JSON: fractions stay exact, as text."""
    return {
        "rule": certificate.rule,
        "declared_lossless": certificate.declared_lossless,
        "passed": certificate.passed,
        "law_equal": certificate.law_equal,
        "faces_agree": certificate.faces_agree,
        "largest_deviation": str(certificate.largest_deviation),
        "failure": certificate.failure,
        "witness": certificate.witness,
        "seconds": round(certificate.seconds, 2),
        "laws": [
            {
                "setting": law.setting,
                "equal": law.deviation == 0,
                "deviation": str(law.deviation),
                "expected_accepted_tokens": str(law.accepted),
                "bound": None if law.bound is None else str(law.bound),
                "share_of_bound": law.share,
            }
            for law in certificate.laws
        ],
        "sampled": [vars(result) for result in certificate.sampled],
    }


def _document(certificates: list[Certificate], broken: Sequence[Rule], command: str) -> str:
    """docs/losslessness.md."""
    mutants = [(mutant, certify(mutant, quick=True)) for mutant in broken]
    columns = (*COLUMNS, "mutants rejected")
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    rows += [f"| {' | '.join([*_cells(one), _rejected(one.rule, mutants)])} |" for one in certificates]
    names = sorted({law.setting for c in certificates for law in c.laws if "top" not in law.setting})
    accepted = {c.rule: {law.setting: law.accepted for law in c.laws} for c in certificates}
    means = ["| setting | " + " | ".join(accepted) + " |", "|" + "---|" * (len(accepted) + 1)]
    for name in names:
        cells = (f"{float(laws[name]):.4f}" if name in laws else "–" for laws in accepted.values())
        means.append(f"| {name} | " + " | ".join(cells) + " |")
    return DOCUMENT.format(
        command=command,
        table="\n".join(rows),
        first=_first_vector(),
        means="\n".join(means),
        mutants=_mutants_table(mutants),
    )


def _rejected(rule: str, mutants: list[tuple[Rule, Certificate]]) -> str:
    """How many of a rule's mutants the certificate rejects."""
    passed = [certificate.passed for mutant, certificate in mutants if mutant.name == rule]
    return f"{passed.count(False)}/{len(passed)}" if passed else "–"


def _mutants_table(mutants: list[tuple[Rule, Certificate]]) -> str:
    rows = ["| mutant of | mistake | rejected by |", "|---|---|---|"]
    for mutant, certificate in mutants:
        reasons = {"its distribution": not certificate.law_equal, "its code": not certificate.faces_agree}
        failed = certificate.failure or " and ".join(reason for reason, fails in reasons.items() if fails)
        rejected_by = "NOTHING" if certificate.passed else failed
        mistake = (type(mutant).__doc__ or "").partition(". ")[2].strip()
        rows.append(f"| {mutant.name} | {mistake} | {rejected_by} |")
    return "\n".join(rows)


DOCUMENT = """# Which rules are lossless

Made by `{command}`.

{table}

- *Distribution equal*: in each setting the emitted text has exactly the target's distribution. It is computed in
  fractions, over all drafts, verdicts and texts that may follow. There is no tolerance.
- *Code matches the proof*: the tensor code does what the rule states. It is run for each way that its random numbers
  can fall (`specdec/proof/explore.py`). `gumbel` draws a vector of them. There a sequential test with error rate 1e-6
  decides.
- *Settings*: the number of exact settings + that of explored ones.
- *Share of the bound*: accepted tokens / the most that any lossless rule can accept. This bound comes from optimal
  transport. It is known for one node or one chain.

{first}

## Accepted draft tokens in the first step

{means}

Under a constraint or a grammar the target's distribution is p at each step, cut down to the tokens that may follow, and
scaled to sum to 1. The rules are certified for it (`tests/engine/test_constraints.py`,
`tests/engine/test_grammars.py`). This is not the distribution of the model's texts *given that they are valid*: no mask
gives that one ([grammars.md](grammars.md)).

## Mutants

These rules are broken on purpose (`tests/mutants/`). The last column says what rejected them.
[mutation.md](mutation.md) has mistakes that a program put into the source of the rules.

{mutants}
"""

main = application("certify", _certify, _check, told=("command",))
