"""How a mutant is judged: a rule by its certificate, any other module by the tests of its room."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import process_time
from types import ModuleType
from typing import Protocol

import hypothesis
import pytest
from hypothesis import Phase

from experiments._mutants import Mutant
from specdec.proof.certify import check_laws, settings_for
from specdec.proof.exact import deviation, expected_accepted, joint_law, target_law, trajectories
from specdec.proof.faces import faces, sampled_settings
from specdec.proof.simulate import simulate
from specdec.randomness import RandomSource
from specdec.registry import RULES
from specdec.verify.base import Rule

FATES = ("survived", "law", "faces", "exception", "timeout", "acceptance", "tests")
RULE_SECONDS = 12
"""Processor time for one rule; the slowest needs a quarter of it."""
WALL = 12
"""A mutant that waits for what never comes uses no processor time: it may take so many times its share of that."""
PROBES = 40
RULE_TESTS = ("tests/verify/test_rules.py", "tests/verify/test_rounding.py", "tests/verify/test_races.py")
RELOADED = ("specdec", "tests", "conftest")
"""Loaded anew in every child, so that each module sees the mutant, however it imports it."""
QUICKLY = (
    "-qx",
    "--assert=plain",
    *(f"-p{p}" for p in ("_hypothesis_pytestplugin", "no:cacheprovider", "no:unraisableexception")),
)
"""Options of pytest: what takes a second a run, and only makes a failure easier to read, is left out."""
PROFILE = "mutation"
hypothesis.settings.register_profile(
    PROFILE, derandomize=True, deadline=None, database=None, phases=(Phase.explicit, Phase.generate)
)
Acceptance = dict[tuple[str, str], Fraction]
"""(rule, setting) → expected accepted tokens."""


@dataclass(frozen=True)
class Found:
    """What became of a mutant.

    Args:
        fate: one of FATES.
        test: the first test that failed, or "".
        slowest: processor time of the longest test, in seconds.
    """

    fate: str
    test: str = ""
    slowest: float = 0.0


class Judge(Protocol):
    """Judges mutants, each in a process of its own that has nothing else to do."""

    def judge(self, mutant: Mutant) -> Found:
        """Loads the mutant and says what finds it."""


@dataclass(frozen=True)
class ByCertificate:
    """The quick certificate of the rules that use the file, cheapest part first; then the rules' unit tests.

    Args:
        rules: those that run all of the file.
        later: modules of `specdec.verify` that import it, in the order of imports.
        acceptance: of the rules as they stand.
    """

    rules: Sequence[str]
    later: Sequence[str]
    acceptance: Acceptance

    def judge(self, mutant: Mutant) -> Found:
        """See `Judge`."""
        name = mutant.file.removesuffix(".py")
        exec(compile(mutant.source, mutant.file, "exec"), vars(_verify(name)))
        for later in self.later:
            importlib.reload(_verify(later))
        for check in (_law, _probe, _faces, self._acceptance):
            for rule in self.rules:
                limit(RULE_SECONDS)
                if fate := check(RULES.create(rule)):
                    return Found(fate)
        # What no certificate looks at: which numbers are asked for, who keeps whose tensors, what is refused.
        return _tests(RULE_TESTS, RULE_SECONDS)

    def _acceptance(self, rule: Rule) -> str:
        """Lossless still, but not as good as documented."""
        return "" if expected(rule).items() <= self.acceptance.items() else "acceptance"


def _verify(name: str) -> ModuleType:
    return importlib.import_module(f"specdec.verify.{name}")


def _law(rule: Rule) -> str:
    for setting in settings_for(rule, quick=True):
        check_laws(rule, setting)
        if rule.lossless and deviation(joint_law(rule, setting), target_law(setting, rule.emits)):
            return "law"
    return ""


def _probe(rule: Rule) -> str:
    """A few plain runs: what the law says cannot happen shows at once."""
    for setting, num_steps in sampled_settings(rule, quick=True):
        if rule.name == "gumbel":
            continue
        stated = trajectories(rule, setting, num_steps)
        if any(not stated.get(simulate(rule, setting, RandomSource(seed), num_steps)) for seed in range(PROBES)):
            return "faces"
    return ""


def _faces(rule: Rule) -> str:
    return "" if all(result.agrees for result in faces(rule, quick=True)) else "faces"


def expected(rule: Rule) -> Acceptance:
    """How many draft tokens the rule keeps in the quick settings."""
    return {(rule.name, setting.name): expected_accepted(rule, setting) for setting in settings_for(rule, quick=True)}


@dataclass(frozen=True)
class ByTests:
    """Tests, in the order given, until one fails.

    Args:
        tests: files or single tests.
        seconds: processor time that one test may take.
    """

    tests: Sequence[str]
    seconds: float = 30.0

    def judge(self, mutant: Mutant) -> Found:
        """See `Judge`."""
        for name in list(sys.modules):
            if name.partition(".")[0] in RELOADED:
                del sys.modules[name]
        module = "specdec." + mutant.file.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, _Finder(module, mutant))
        importlib.import_module(module)
        return _tests(self.tests, self.seconds)


@dataclass(frozen=True)
class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant's text for its module."""

    module: str
    mutant: Mutant

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        origin = Path(*self.module.split(".")).with_suffix(".py").absolute()
        return importlib.util.spec_from_file_location(fullname, origin, loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, str(module.__file__), "exec"), vars(module))


@dataclass(eq=False)
class _Watch:
    """A plug-in of pytest: ends a test that takes too long, and notes the first that fails or cannot be collected."""

    seconds: float
    failed: str = ""
    slowest: float = 0.0

    def pytest_runtest_protocol(self) -> None:
        limit(self.seconds)
        self.began = process_time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.slowest = max(self.slowest, process_time() - self.began)
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def _tests(tests: Sequence[str], seconds: float) -> Found:
    watch = _Watch(seconds)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    code = pytest.main([*QUICKLY, f"--hypothesis-profile={PROFILE}", "-m", "not slow", *tests], plugins=[watch])
    return Found("tests" if code else "survived", watch.failed, watch.slowest)


def limit(seconds: float) -> None:
    """Ends this process once it has computed for so long, or waited WALL times as long."""
    for timer, which, share in ((signal.ITIMER_PROF, signal.SIGPROF, 1), (signal.ITIMER_REAL, signal.SIGALRM, WALL)):
        signal.signal(which, signal.SIG_DFL)
        signal.setitimer(timer, share * seconds)
