"""The certificate of a rule as plain values, examined once and kept."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import specdec.verify
from specdec.kept import kept_value
from specdec.paths import cache_dir, entry_name
from specdec.proof.certify import certify
from specdec.verify.base import Rule

FIELDS = {
    "rule", "lossless", "law_equal", "faces_agree", "largest_deviation", "passed", "settings", "failure", "witness",
}  # fmt: skip


def certificate_of(rule: Rule) -> dict[str, Any]:
    """What the quick examination found: a few seconds the first time, then a file.

    Args:
        rule: from this package or another one.

    Returns:
        `rule`, `lossless` (declared), `law_equal`, `faces_agree`, `largest_deviation` (a fraction, as text), `passed`,
        `settings` (how many), `failure`, and `witness`: why it did not pass, in words.
    """
    try:
        mark = _source_mark(rule)
    except (OSError, TypeError):  # its class has no file: it was typed in, or the file is gone
        return _examined(rule)
    path = cache_dir() / f"{entry_name(f'certificate-{rule.name}', mark)}.json"
    return kept_value(path, lambda: _examined(rule), _certificate, dict)


def _examined(rule: Rule) -> dict[str, Any]:
    found = certify(rule, quick=True)
    return {
        "rule": found.rule,
        "lossless": found.declared_lossless,
        "law_equal": found.law_equal,
        "faces_agree": found.faces_agree,
        "largest_deviation": str(found.largest_deviation),
        "passed": found.passed,
        "settings": len(found.laws) + len(found.sampled),
        "failure": found.failure,
        "witness": found.witness,
    }


def _certificate(record: dict[str, Any]) -> dict[str, Any]:
    """The certificate that was kept.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(record, dict) or set(record) != FIELDS:
        raise ValueError("it is no certificate")
    return record


def _source_mark(rule: Rule) -> str:
    """Changes with the rule's class, its parameters, and everything that it stands on or that examines it."""
    told = [file.read_bytes() for file in sources(rule)] + [repr(sorted(vars(rule).items())).encode()]
    return hashlib.sha256(b"\0".join(told)).hexdigest()[:12]


def sources(rule: Rule) -> list[Path]:
    """Files that a certificate depends on: those of the rule's class and of the classes above it, all of
    `specdec.verify` and `specdec.proof`."""
    rooms = (Path(specdec.verify.__file__).parent, Path(__file__).parent)
    classes = [one for one in type(rule).__mro__ if one.__module__ != "builtins"]
    own = [Path(inspect.getfile(one)) for one in classes]
    return sorted({*own, *(file for room in rooms for file in room.glob("*.py"))})
