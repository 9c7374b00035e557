"""In what the jobs of a study differ: names and numbers for its tables, filters and charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specdec.drafters.base import Drafter
from specdec.policy.base import Policy
from specdec.verify.base import Rule


def axes(
    values: dict[str, Any], drafters: Sequence[Drafter], rule: str | Rule, policy: Policy, temperature: float
) -> dict[str, Any]:
    """Names of the parts, the drafter's options, and the numbers that studies turn."""
    options = {name: value for name, value in values["drafter"].items() if not name.startswith("_")}
    return {
        "drafter": "+".join(drafter.name for drafter in drafters),
        **{name: value for name, value in options.items() if value is None or isinstance(value, str | int | float)},
        "rule": rule if isinstance(rule, str) else rule.name,
        "temperature": temperature,
        "target": _shown(values["target"]["path"]) or "embedded",
        "dtype": values["precision"]["dtype"],
        "kv_dtype": values["precision"]["kv_dtype"],
        **{f"template_kwargs.{name}": value for name, value in values["template_kwargs"].items()},
        "data": _shown(values["data"].get("path")) or values["data"].get("name"),
        "batch": values.get("batch", 1),
        "policy": policy.name,
    }


def _shown(path: str | None) -> str | None:
    """A file or folder without those around it, which are this machine's own; a hub id as it is."""
    return Path(path).name if path is not None and Path(path).exists() else path
