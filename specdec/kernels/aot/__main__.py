"""Compiles every Triton kernel for real GPUs, without one, and says what came out.

python -m specdec.kernels.aot [--targets sm_80,sm_90] [--markdown FILE] [--json FILE]

For each kernel, dtype and target: registers, shared memory, stack and spills, whether matrix instructions and 16-byte
loads are there. Fails where a kernel does not compile, exceeds its budget, or lacks the instructions it is built for.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from specdec.kernels.aot.cases import GROUPS, Case

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_KIB = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "gfx942": 64}
"""Shared memory that a program may have."""
MATRIX = {
    "cuda": re.compile(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)"),
    "hip": re.compile(r"\b(v_mfma)_"),
}
WIDE_LOADS = {
    "cuda": re.compile(
        r"\b(ld\.global\S*\.v4\.[bf]32|ld\.global\S*\.v2\.[bf]64|cp\.async\.c[ag]\S* [^;]*, 0x10|cp\.async\.bulk)"
    ),
    "hip": re.compile(r"\b(global_load_dwordx4|buffer_load_dwordx4)"),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one compilation gave. Registers and stack are per thread; shared memory per program, in KiB."""

    case: str
    target: str
    registers: int = 0
    shared_kib: float = 0.0
    stack: int = 0
    spills: int = 0
    matrix: str = ""
    wide_loads: int = 0
    problem: str = ""
    skipped: str = ""


def compiled(case: Case, target: str) -> Outcome:
    """Compiles one case for one target and checks it."""
    if target in case.skip:
        return Outcome(case.name, target, skipped=case.skip[target])
    options = {"num_warps": case.warps, "num_stages": case.stages}
    try:
        binary = triton.compile(case.source(), target=TARGETS[target], options=options)
    except Exception as error:  # whatever the compiler raises, it is this case's result
        return Outcome(case.name, target, problem=f"does not compile: {type(error).__name__}: {str(error)[:300]}")
    backend = TARGETS[target].backend
    code = binary.asm["ptx" if backend == "cuda" else "amdgcn"]
    registers, stack, spills = (_nvidia if backend == "cuda" else _amd)(binary)
    found = sorted(set(MATRIX[backend].findall(code)))
    wide = len(WIDE_LOADS[backend].findall(code))
    shared = binary.metadata.shared / 1024
    budget = case.registers * (1 if backend == "cuda" else 2)  # on AMD there are 512, half of them for accumulators
    problems = [
        f"{registers} registers, budget {budget}" if registers > budget else "",
        f"{spills} bytes of spills, budget {case.spills}" if spills > case.spills else "",
        f"{shared:.0f} KiB of shared memory, {SHARED_KIB[target]} there are" if shared > SHARED_KIB[target] else "",
        "no matrix instructions" if case.matrix and not found else "",
        "no 16-byte loads" if case.wide and not wide else "",
    ]
    return Outcome(case.name, target, registers, round(shared, 1), stack, spills, ", ".join(found), wide,
                   "; ".join(filter(None, problems)))  # fmt: skip


def _nvidia(binary: Any) -> tuple[int, int, int]:
    """Registers, stack, and bytes of spills, as the assembler tells them."""
    code = binary.asm["ptx"]
    architecture = re.search(r"\.target (\w+)", code).group(1)  # type: ignore[union-attr]
    name = "ptxas-blackwell" if architecture.startswith(("sm_10", "sm_12")) else "ptxas"
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(code, encoding="utf-8")
        command = [str(tool), "-v", f"--gpu-name={architecture}", str(source), "-o", f"{folder}/kernel.cubin"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, text))

    return number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes spill")


def _amd(binary: Any) -> tuple[int, int, int]:
    """The same from the assembly."""
    code = binary.asm["amdgcn"]

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", code)
        return int(found.group(1)) if found else 0

    return number("vgpr_count"), number("private_segment_fixed_size"), 4 * number("vgpr_spill_count")


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line a kernel, a column a target."""
    targets = list(dict.fromkeys(outcome.target for outcome in outcomes))
    cells: dict[str, dict[str, str]] = {}
    for o in outcomes:
        parts = [
            f"{o.registers} reg",
            f"{o.shared_kib:g} KiB",
            f"{o.spills} spills",
            o.matrix,
            "16 B" if o.wide_loads else "",
        ]
        text = f"— ({o.skipped})" if o.skipped else ", ".join(filter(None, parts))
        cells.setdefault(o.case, {})[o.target] = f"**{o.problem}**" if o.problem else text
    lines = [f"| kernel | {' | '.join(targets)} |", "|" + "---|" * (1 + len(targets))]
    lines += [f"| {case} | {' | '.join(row[target] for target in targets)} |" for case, row in cells.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compiles, prints, writes what was asked for; exits 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = [case for group in GROUPS for case in group() if args.only in case.name]
    outcomes = [compiled(case, target) for case in cases for target in args.targets.split(",")]
    print(table(outcomes))
    wrong = [outcome for outcome in outcomes if outcome.problem]
    for outcome in wrong:
        print(f"{outcome.case} on {outcome.target}: {outcome.problem}", file=sys.stderr)
    if args.markdown is not None:
        args.markdown.write_text(PAGE.format(table=table(outcomes), version=triton.__version__), encoding="utf-8")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8")
    good = sum(not outcome.problem and not outcome.skipped for outcome in outcomes)
    print(f"{good} compiled within their budgets, {len(wrong)} not, {len(outcomes) - good - len(wrong)} skipped.")
    sys.exit(bool(wrong))


PAGE = """# Triton kernels, compiled ahead of time

`make kernels-aot` (triton {version}) compiles each Triton kernel for real GPUs; none is needed for that. It makes
this page, and fails if a kernel does not compile, exceeds its budget, spills more registers than it may, or lacks the
instructions that it is built for. [gpu.md](gpu.md) says what has run on a GPU.

A cell shows registers per thread (*reg*), shared memory per program (*KiB*), bytes of spilled registers (*spills*),
and the instructions for matrix products (*mma.sync*, *v_mfma*). *16 B* means that there are loads of 16 bytes.

{table}"""


if __name__ == "__main__":
    main()
