"""What specdec runs on here, and why.

specdec doctor    # it takes no settings
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch
import transformers

from specdec.kernels.attention.native import CACHE_KINDS
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.build import ARCHITECTURES, BuildError, build, cache_folder, cpu_description, find_compiler
from specdec.kernels.cpu.memory import huge
from specdec.kernels.device import triton_runs
from specdec.kernels.linear import KINDS
from specdec.models.backends import KV_DTYPES
from specdec.models.sources import EMBEDDED_PACKAGE, EMBEDDED_REMEDY
from specdec.paths import cache_dir

FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
MEGABYTES = 256


def report() -> Iterator[tuple[str, str]]:
    """Topic and finding, in the order in which one would look."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
    yield "transformers", transformers.__version__
    lines = dict(line.partition(":")[::2] for line in cpu_description().splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in lines.items()}
    yield "cpu", named.get("model name", platform.processor() or "unknown")
    has = set(named.get("flags", "").split())
    yield "cpu features", " ".join(feature for feature in FEATURES if feature in has) or "none that the kernels know"
    yield from _kernels()
    yield "large pages", _large_pages()
    yield "weights as", ", ".join(KINDS) if native.library() else "float32, bfloat16, float16 (torch's own products)"
    held = [name for name, dtype in KV_DTYPES.items() if dtype in CACHE_KINDS]
    yield "cache as", ", ".join(held if native.library() else ("float32", "bfloat16", "float16"))
    yield "gpu", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use"
    yield "triton", _triton()
    installed = importlib.util.find_spec(EMBEDDED_PACKAGE) is not None
    yield "embedded model", "installed" if installed else f"missing: {EMBEDDED_REMEDY}"
    yield "converted weights", str(cache_dir())


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed: GPU kernels cannot be used (it exists for Linux)"
    used = (
        "in use on the GPU" if triton_runs("cuda") else "no GPU: its kernels can only be interpreted and compiled here"
    )
    return f"{version('triton')}, {used}"


def _kernels() -> Iterator[tuple[str, str]]:
    """Whether the native kernels are in use, and what they reach."""
    try:
        yield "compiler", find_compiler()
    except BuildError as error:
        yield "compiler", str(error)
    try:
        began = perf_counter()
        built = build()
        seconds = perf_counter() - began
        yield "kernels", f"{built.path}, {'found' if built.found else 'compiled'} in {seconds:.1f} s"
    except BuildError as error:
        yield "kernels", f"NOT IN USE, the slow reference serves: {error}"
        return
    kernels = native.library()
    if kernels is None:
        yield "instruction set", "NOT IN USE: the library cannot be loaded (see the warning)"
        return
    yield "instruction set", f"{kernels.isa} (compiled for {kernels.architecture!r}; also: {', '.join(ARCHITECTURES)})"
    yield "kernel folder", f"{cache_folder()}, {'writable' if os.access(cache_folder(), os.W_OK) else 'READ-ONLY'}"
    yield "reading speed", f"{_bandwidth(kernels):.1f} GB/s: the floor of a pass is its weights' bytes over this"


def _bandwidth(kernels: native.Library) -> float:
    """GB/s of the best of five readings of memory that no cache holds."""
    buffer = huge(MEGABYTES << 20).fill_(1)
    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        kernels.read(buffer.data_ptr(), buffer.numel(), torch.get_num_threads())
        best = min(best, perf_counter() - began)
    return buffer.numel() / best / 1e9


def _large_pages() -> str:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file():
        return "not known to this system"
    chosen = setting.read_text(encoding="utf-8").partition("[")[2].partition("]")[0]
    return f"{chosen}{': weights are read at half the speed' if chosen == 'never' else ''}"


def main() -> None:
    """Prints the report; exit code 2 for words, of which it takes none."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print((__doc__ or "").strip())
        return
    if sys.argv[1:]:
        print(f"specdec doctor: it takes no settings, and {sys.argv[1]!r} was given.", file=sys.stderr)
        sys.exit(2)
    for topic, finding in report():
        print(f"{topic:18} {finding}")


if __name__ == "__main__":
    main()
