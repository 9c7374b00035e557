"""Rows of the page's tables: who is fastest, what proves it, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.report.methods import Method

ALL = "all prompts"
"""The category that stands for all of them."""

NOT_CREDIBLE = "> τ: measuring error"
"""Stands in place of a speedup above τ, which cannot be true."""
NOT_RELIABLE = "beside other jobs"
"""Stands next to a speedup that was measured while other jobs ran."""


@dataclass(frozen=True)
class Standing:
    """A method on one category of prompts.

    Args:
        method: who.
        category: of the prompts; `ALL` for all.
        figures: the contract's scalars of that category.
    """

    method: Method
    category: str
    figures: dict[str, Any]

    @property
    def speedup(self) -> float | None:
        """To show and to rank; None if it was not measured or cannot be true."""
        return None if self.refused else self.figures["speedup"]

    @property
    def refused(self) -> bool:
        """Whether the measured speedup is above τ, be it by noise: such a number is ranked nowhere."""
        measured = self.figures["speedup"]
        return measured is not None and (measured > self.figures["tau"] or not self.figures["credible"])

    @property
    def ranked(self) -> bool:
        """Whether its speedup is evidence."""
        return self.speedup is not None and self.method.evidence

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Of the speedup's interval; one prompt has none."""
        alone = self.speedup is None or self.figures["prompts"] < 2
        return (None, None) if alone else (self.figures["speedup_low"], self.figures["speedup_high"])

    @property
    def interval(self) -> str:
        """For readers, or ""."""
        low, high = self.ends
        return "" if low is None or high is None else f"{low:.2f}–{high:.2f}"

    @property
    def identical(self) -> str:
        """Prompts whose tokens equal plain decoding's, of how many that must."""
        same = self.figures["identical"]
        return "–" if same is None else f"{same}/{self.figures['comparable']}"


def standings(methods: Iterable[Method]) -> list[Standing]:
    """Every method on every category: by speedup where that is evidence, then by τ; measuring errors come last."""
    rows = [
        Standing(method, category, figures)
        for method in methods
        if method.done
        for category, figures in {ALL: method.run.summary["metrics"], **method.run.summary["by_category"]}.items()
    ]
    return sorted(rows, key=_rank, reverse=True)


def _rank(row: Standing) -> tuple[bool, bool, float, float]:
    return not row.refused, row.ranked, row.speedup or 0.0 if row.ranked else 0.0, row.figures["tau"]


def categories(rows: Iterable[Standing]) -> list[str]:
    """`ALL`, then the others by name."""
    return [ALL, *sorted({row.category for row in rows} - {ALL})]


def verdict(certificate: dict[str, Any] | None) -> str:
    """What a certificate says of its rule, in words."""
    if certificate is None:
        return "not certified"
    if not certificate["passed"]:
        return "failed"
    return "lossless" if certificate["lossless"] else "lossy, as declared"


@dataclass(frozen=True)
class Origin:
    """How some runs were made: the same command, code and machine.

    Args:
        methods: the runs.
        environment: of the first of them.
    """

    methods: Sequence[Method]
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        """Its processor, threads and versions."""
        return str(self.environment.get("machine", "an unknown machine"))

    @property
    def commit(self) -> str:
        """Git's name of the code, and whether it had changed since."""
        git = self.environment.get("git")
        return "not in a repository" if git is None else git["commit"] + (" with local changes" if git["dirty"] else "")

    @property
    def versions(self) -> str:
        """One line."""
        return ", ".join(
            f"{name} {version}" for name, version in self.environment.get("versions", {}).items() if version
        )

    @property
    def started(self) -> str:
        """When, or from when to when."""
        times = [str(method.run.environment.get("started", "unknown")) for method in self.methods]
        return _span(times)

    @property
    def load(self) -> str:
        """Processes that ran or waited as jobs began; "" where no run says."""
        told = [method.run.environment.get("load") for method in self.methods]
        return _span([f"{one:.2f}" for one in told if one is not None])

    @property
    def kernels(self) -> str:
        """The build of the native kernels, or why there is none; "" where no run says."""
        told = self.environment.get("kernels", {})
        return str(told.get("missing") or ", ".join(part for part in map(told.get, ("name", "compiler")) if part))

    @property
    def packages(self) -> str:
        """All that was installed, as `pip freeze` writes it."""
        return "\n".join(f"{name}=={version}" for name, version in self.environment.get("packages", {}).items())

    @property
    def digests(self) -> list[tuple[str, str]]:
        """Of the prompts, and of files of data and weights: what, and its digest."""
        found: dict[tuple[str, str], None] = {}
        for told in (method.run.environment for method in self.methods):
            data = told.get("data", {})
            if data:
                found[f"{data['prompts']} prompts", data["fingerprint"]] = None
            if "file" in data:
                found["their file", data["file"]] = None
            for option, files in told.get("weights", {}).items():
                found |= {(f"{option}: {name}", digest): None for name, digest in files.items()}
        return [*found]


def _span(values: Sequence[str]) -> str:
    """One value, or the least and the largest."""
    return "" if not values else min(values) if min(values) == max(values) else f"{min(values)} to {max(values)}"


OF_A_JOB = frozenset({"started", "load", "data", "weights"})
"""Entries of an environment that differ between jobs of one command."""


def origins(methods: Iterable[Method]) -> list[Origin]:
    """Runs put together by what made them; what is only planned was not made by anything."""
    groups: dict[str, list[Method]] = {}
    for method in (one for one in methods if one.run.status != "planned"):
        maker = {k: v for k, v in method.run.environment.items() if k not in OF_A_JOB}
        groups.setdefault(json.dumps(maker, sort_keys=True), []).append(method)
    return [Origin(group, group[0].run.environment) for group in groups.values()]
