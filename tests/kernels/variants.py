"""The compiled kernels, once for every instruction set of this machine that they know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from specdec.kernels.cpu import build
from specdec.kernels.cpu.library import Library

UNIT = 2.0**-24
"""Unit roundoff of float32: half the spacing of numbers just above one."""

build.ARCHITECTURES["avx512"] = ("-march=x86-64-v4",)
build.ARCHITECTURES["no tiles"] = ("-march=native", "-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
NEEDED = {"native": (), "no tiles": ("amx_tile",), "avx512": ("avx512vl",), "avx2": ("avx2", "fma"), "portable": ()}
"""What each of them needs. A machine with matrix tiles also does duty for those that lack them."""
CHECKED = "SPECDEC_TEST_CHECKED"
"""In the environment: the tests run on the build that checks every access (tests/kernels/test_checked.py)."""
if CHECKED in os.environ:
    build.ARCHITECTURES["native"], NEEDED = build.ARCHITECTURES["checked"], {"native": ()}
FEATURES = set(build.cpu_description().split())
if "amx_tile" in FEATURES:
    NEEDED.pop("avx512", None)  # with "no tiles" there is one build more to try: machines without tiles try this one
ARCHITECTURES = [name for name, features in NEEDED.items() if set(features) <= FEATURES]
FIRST = "native"
"""What users run. The others are compiled and tried by the slow tests."""


def marked(architecture: str) -> Any:
    """Slow, unless it is the first."""
    return () if architecture == FIRST else pytest.mark.slow


every_architecture = pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=marked(name)) for name in ARCHITECTURES]
)


@cache
def kernels(architecture: str) -> Library:
    """Compiled on first use; kept on disk by specdec itself."""
    return Library(architecture)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
