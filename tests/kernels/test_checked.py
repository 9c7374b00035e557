"""The kernels' tests, and hostile inputs, on a build that ends the process at the first access beyond its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.kernels.cpu.build import find_compiler
from tests.kernels.variants import ARCHITECTURES, CHECKED

ROOT = Path(__file__).parents[2]
SUITES = {
    "gate": ["tests/kernels/test_gate.py", "-k", "not not_there"],  # the sanitizer itself ends a process without memory
    "rows and norms": ["tests/kernels/test_rows.py", "tests/kernels/test_norm.py"],
    "retrieval": ["tests/kernels/test_retrieval.py", "-k", "kernel or changed or refused"],
    "products": ["tests/kernels/test_linear.py", "-k", "not rounding"],
    "attention": ["tests/kernels/test_attention_native.py", "-k", "mixed_batch or key_head or window or borders"],
    "suffixes": ["tests/kernels/test_suffix.py"],
    "blocks": ["tests/kernels/test_markov.py", "tests/heads/test_runs.py", "-k", "not transformers"],
    "passes": ["tests/models/test_native.py", "-k", "logits_are_those or whole_context"],
    "engine": ["tests/engine/test_engine.py", "-k", "preempt or tree"],
}
BEYOND = """
import torch
from tests.kernels.variants import kernels
x, weight = torch.randn(2, 40), torch.ones(40)
kernels("native").rms_norm(x.data_ptr(), weight.data_ptr(), 2, 40, 1e-6, x.data_ptr())
print("within", flush=True)
kernels("native").rms_norm(x.data_ptr(), weight.data_ptr(), 2, 41, 1e-6, x.data_ptr())
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("avx2" not in ARCHITECTURES, reason="the checked build is for CPUs with AVX2"),
]


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    """Python in a process where the library's checks have their run-time."""
    compiler, names = find_compiler(), ("libasan.so", "libstdc++.so")  # the former looks for the latter when it begins
    asked = [[compiler, f"-print-file-name={name}"] for name in names]
    found = [subprocess.run(each, capture_output=True, text=True, check=True).stdout.strip() for each in asked]
    if not all(Path(each).is_file() for each in found):
        pytest.skip("no address sanitizer: apt-get install libasan8")
    added = {"LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": "detect_leaks=0", CHECKED: "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **added},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("suite", SUITES)
def test_no_access_goes_beyond_its_memory(suite: str) -> None:
    done = checked("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:faulthandler", *SUITES[suite])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_an_access_beyond_its_memory_would_be_seen() -> None:
    done = checked("-c", BEYOND)
    assert done.stdout == "within\n"
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
