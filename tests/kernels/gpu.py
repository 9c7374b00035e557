"""Triton kernels in tests: on the GPU if there is one, in the interpreter otherwise."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

from specdec.kernels import interpreter

DEVICE = "cpu" if interpreter.active() else "cuda"
if interpreter.active():
    interpreter.install()


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, memory that no one has written to holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


Check = Callable[[ModuleType], None]
"""Runs a module's kernels and fails if they are wrong."""


def assert_caught(module: ModuleType, check: Check, changes: Sequence[tuple[str, str]], folder: Path) -> None:
    """A check passes on the module, and fails on a copy with those changes."""
    check(module)
    copy = broken(module, folder, *changes)
    with pytest.raises(AssertionError):
        check(copy)


def broken(module: ModuleType, folder: Path, *changes: tuple[str, str]) -> ModuleType:
    """A copy of a module with pieces of its source replaced, each of which must be there exactly once."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, f"{source.count(old)} × {old!r}"
        source = source.replace(old, new)
    path = folder / "broken.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"broken_{abs(hash((module.__name__, *changes)))}", path)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy  # dataclasses look their module up
    spec.loader.exec_module(copy)
    return copy
