"""The certificate of a rule as plain values, examined once and kept."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import specdec.verify
from specdec.paths import cache_dir
from specdec.proof.certify import certify
from specdec.verify.base import Rule


def certificate_of(rule: Rule) -> dict[str, Any]:
    """What the quick examination found: a few seconds the first time, then a file.

    Args:
        rule: from this package or another one.

    Returns:
        `rule`, `lossless` (declared), `law_equal`, `faces_agree`, `largest_deviation` (a fraction, as text), `passed`,
        `settings` (how many) and `failure`.
    """
    path = cache_dir() / f"certificate-{rule.name}-{_source_mark(rule)}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    found = certify(rule, quick=True)
    told = {
        "rule": found.rule,
        "lossless": found.declared_lossless,
        "law_equal": found.law_equal,
        "faces_agree": found.faces_agree,
        "largest_deviation": str(found.largest_deviation),
        "passed": found.passed,
        "settings": len(found.laws) + len(found.sampled),
        "failure": found.failure,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def _source_mark(rule: Rule) -> str:
    """Changes with the rule's class, its parameters, and everything that it stands on or that examines it."""
    told = [file.read_bytes() for file in sources(rule)] + [repr(sorted(vars(rule).items())).encode()]
    return hashlib.sha256(b"\0".join(told)).hexdigest()[:12]


def sources(rule: Rule) -> list[Path]:
    """Files that a certificate depends on: the rule's module, all of `specdec.verify` and `specdec.proof`."""
    rooms = (Path(specdec.verify.__file__).parent, Path(__file__).parent)
    return sorted({Path(inspect.getfile(type(rule))), *(file for room in rooms for file in room.glob("*.py"))})
