"""In what the jobs of a study differ: names and numbers for its tables, filters and charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specdec.drafters.base import Drafter
from specdec.policy.base import Policy
from specdec.verify.base import Rule

SCALARS = (str, int, float, bool, type(None))


def axes(
    values: dict[str, Any], drafters: Sequence[Drafter], rule: str | Rule, policy: Policy, temperature: float
) -> dict[str, Any]:
    """Every setting that a sweep can turn, by its own name: those in which no runs differ are not shown.

    Args:
        values: all settings of the job.
        drafters, rule, policy, temperature: what they came to.

    Returns:
        Names of the parts, options of the drafter (`num_draft_tokens`), sampling (`top_p`), and sizes of the engine
        (`max_num_seqs`). What has one of these names already is called by its group too (`policy.seed`). The sampling
        comes before the drafter (`drafter.max_tokens`), where it says anything.
    """
    sampled = {name for name, value in _scalars(values["sampling"]).items() if value is not None}
    named = {
        "drafter": "+".join(drafter.name for drafter in drafters),
        **{f"drafter.{k}" if k in sampled else k: value for k, value in _scalars(values["drafter"]).items()},
        "rule": rule if isinstance(rule, str) else rule.name,
        "temperature": temperature,
        "target": _shown(values["target"]["path"]) or "embedded",
        "dtype": values["precision"]["dtype"],
        "kv_dtype": values["precision"]["kv_dtype"],
        **{f"template_kwargs.{name}": value for name, value in values["template_kwargs"].items()},
        "data": _shown(values["data"].get("path")) or values["data"].get("name"),
        "batch": values.get("batch", 1),
        "policy": policy.name,
        "chat": values["chat"],
    }
    for group in ("sampling", "rule", "policy", "engine"):
        for name, value in _scalars(values[group]).items():
            if name != "temperature":
                named[f"{group}.{name}" if name in named else name] = value
    data = _scalars(values["data"])
    return {**named, **{f"data.{name}": data[name] for name in ("limit", "subset", "seed", "turns") if name in data}}


def _scalars(part: dict[str, Any]) -> dict[str, Any]:
    """Options that are one value each, without those that Hydra itself reads."""
    return {name: value for name, value in part.items() if not name.startswith("_") and isinstance(value, SCALARS)}


def _shown(path: str | None) -> str | None:
    """A file or folder without those around it, which are this machine's own; a hub id as it is."""
    return Path(path).name if path is not None and Path(path).exists() else path
