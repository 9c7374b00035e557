"""Ahead-of-time compilation: what is reported is what the compiler gave, and what is wrong is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.kernels.aot.__main__ import MATRIX, WIDE_LOADS, Outcome, table
from specdec.kernels.aot.cases import GROUPS

PLAIN = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
"""Interpreted kernels cannot be compiled: that takes a process of its own."""


def compile_it(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "specdec.kernels.aot", *arguments]
    return subprocess.run(command, env=PLAIN, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_kernels_compile_for_every_target_within_their_budgets(tmp_path: Path) -> None:
    """A few of them; `make kernels-aot` compiles all."""
    files = ("--json", str(tmp_path / "o.json"), "--markdown", str(tmp_path / "o.md"))
    done = compile_it("--only", "linear, fp16 × fp16", *files)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [o["target"] for o in outcomes] == ["sm_80", "sm_90", "sm_100", "gfx942"]
    assert all(0 < o["registers"] < 256 and o["spills"] == 0 and o["wide_loads"] > 0 for o in outcomes)
    assert [o["matrix"] != "" for o in outcomes] == [True] * 4
    assert "mma.sync" in (tmp_path / "o.md").read_text(encoding="utf-8")


BROKEN = """
from dataclasses import replace
from specdec.kernels.aot.__main__ import compiled
from specdec.kernels.aot.cases import verdict_cases, attention_cases
[merge] = [c for c in attention_cases() if "merge" in c.name]
[walk] = [c for c in verdict_cases() if c.name == "verdict, greedy"]
print(compiled(replace(merge, registers=8), "sm_90").problem)
print(compiled(replace(walk, wide=True), "sm_90").problem)
print(compiled(replace(walk, matrix=True), "sm_90").problem)
print(compiled(replace(merge, types={**merge.types, "BLOCK_D": 100}), "sm_90").problem[:16])
print(compiled(merge, "sm_90"))
"""


@pytest.mark.slow
def test_a_regression_is_noticed() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], env=PLAIN, capture_output=True, text=True, check=True)
    registers, loads, matrix, error, good = done.stdout.strip().splitlines()[-5:]
    assert re.fullmatch(r"\d+ registers, budget 8", registers)
    assert (loads, matrix, error) == ("no 16-byte loads", "no matrix instructions", "does not compile")
    assert "problem=''" in good


def test_every_kernel_has_a_case() -> None:
    """Every jitted function whose name ends in `_kernel`."""
    folder = Path(__file__).parents[2] / "specdec" / "kernels"
    written = {
        line.removeprefix("def ").partition("(")[0]
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("def ") and line.partition("(")[0].endswith("_kernel")
    }
    compiled = {case.kernel.fn.__name__ for group in GROUPS for case in group()}
    assert compiled == written


def test_instructions_are_recognized() -> None:
    assert MATRIX["cuda"].findall("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16\nmma.sync.aligned.m16n8k16")
    assert not MATRIX["cuda"].findall("fma.rn.f32")
    assert MATRIX["hip"].findall("  v_mfma_f32_16x16x16_bf16")
    assert WIDE_LOADS["cuda"].findall("ld.global.v4.b32 {%r1}")
    assert not WIDE_LOADS["cuda"].findall("ld.global.b32 %r1")
    assert WIDE_LOADS["cuda"].findall("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;")
    assert WIDE_LOADS["hip"].findall("global_load_dwordx4 v[0:3]")
    assert not WIDE_LOADS["hip"].findall("global_load_dword v0")


def test_the_table_shows_what_is_wrong_and_what_was_left_out() -> None:
    text = table([
        Outcome("a", "sm_80", 40, 8.0, 0, 0, "mma.sync", 3),
        Outcome("a", "gfx942", problem="9 bytes of spills"),
        Outcome("b", "sm_80", skipped="no FP8"),
        Outcome("b", "gfx942", 10),
    ])  # fmt: skip
    assert "| a | 40 reg, 8 KiB, 0 spills, mma.sync, 16 B | **9 bytes of spills** |" in text
    assert "| b | — (no FP8) | 10 reg, 0 KiB, 0 spills |" in text
