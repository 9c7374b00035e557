"""Methods of one's own, swept beside ours: an installed package's by name, the current folder's by path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.measure.runs import Run, load_runs
from tests.test_registry import METHODS

ROOT = Path(__file__).parent.parent.parent
ENTRY_POINTS = (
    "[specdec.drafters]\necho = their_methods:EchoDrafter\n\n[specdec.rules]\npolite = their_methods:PoliteRule\n"
)
LOCAL = """
from specdec import Drafter, DraftTree


class Repeat(Drafter):
    name = "repeat"

    def __init__(self, num_draft_tokens=4, back=1):
        super().__init__(num_draft_tokens)
        self.back = back

    def propose(self, requests):
        return [DraftTree.chain([r.tokens[-self.back]] * min(self.num_draft_tokens, r.max_depth)) for r in requests]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """As pip leaves a package with a drafter and a rule."""
    site = tmp_path / "site"
    info = site / "their_methods-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    (site / "their_methods.py").write_text(METHODS, encoding="utf-8")
    return site


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a module in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "local_methods.py").write_text(LOCAL, encoding="utf-8")
    return folder


def study(site: Path, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As the console script runs it: the current folder is not on Python's path by itself."""
    program = "from specdec.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "study", *words], cwd=here, capture_output=True, text=True, timeout=600,
        check=False, env=os.environ | {"PYTHONPATH": f"{ROOT}:{site}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def told(runs: list[Run], *axes: str) -> set[tuple[object, ...]]:
    return {tuple(run.axes.get(axis) for axis in axes) for run in runs}


@pytest.mark.slow
@pytest.mark.xdist_group("launchers")
def test_methods_of_a_package_and_of_a_folder_are_swept_beside_ours(
    tiny: list[str], tmp_path: Path, site: Path, here: Path
) -> None:
    words = [*tiny, "certified=false", "trace.prompts=0", "report=false", "sampling=sample", "data.limit=2"]
    swept = ["drafter=none,ngram,echo,local_methods.Repeat", "drafter.num_draft_tokens=2,3", "drafter.back=2"]
    done = study(site, here, "-m", *words, *swept, "rule=gumbel,polite", "study=a")
    assert done.returncode == 0, done.stderr
    runs = load_runs(tmp_path / "runs" / "a")
    assert {run.status for run in runs} == {"done"}
    drafting = [run for run in runs if run.axes["drafter"] != "none"]
    assert told(drafting, "drafter", "rule", "num_draft_tokens", "back") == {
        (drafter, rule, count, 2 if drafter == "repeat" else None)
        for drafter in ("ngram", "echo", "repeat") for rule in ("gumbel", "polite") for count in (2, 3)
    }  # fmt: skip
    parallel = ["drafter=echo,local_methods.Repeat", "rule=polite", "launcher=joblib", "study=b"]
    done = study(site, here, "-m", *words, *parallel)
    assert done.returncode == 0, done.stderr
    assert told(load_runs(tmp_path / "runs" / "b"), "drafter") == {("echo",), ("repeat",)}
