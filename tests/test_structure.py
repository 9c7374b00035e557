"""Imports point one way; every config composes; docstrings name what exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "specdec").rglob("*.py"))
FORBIDDEN = {
    # Methods do not know of the engine, the scheduler, or each other's callers.
    "drafters": ("specdec.engine", "specdec.scheduler", "specdec.generator", "specdec.request"),
    "verify": ("specdec.engine", "specdec.scheduler", "specdec.generator", "specdec.request", "specdec.drafters",
               "specdec.models", "specdec.cache"),
    "models": ("specdec.engine", "specdec.scheduler", "specdec.generator", "specdec.drafters", "specdec.verify"),
    "cache": ("specdec.engine", "specdec.models", "specdec.drafters", "specdec.verify"),
    "kernels": ("specdec.engine", "specdec.models", "specdec.drafters", "specdec.verify", "specdec.cache"),
    "sampling": ("specdec.engine", "specdec.models", "specdec.drafters", "specdec.verify", "specdec.cache"),
}  # fmt: skip
MAX_LINES = 270


def imports(path: Path) -> set[str]:
    """Every module that the file names in an import, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return found


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT / "specdec").parts[0]
    bad = ("experiments", "tests", "benchmarks", *FORBIDDEN.get(package, ()))
    offending = [name for name in imports(path) if any(name == b or name.startswith(b + ".") for b in bad)]
    assert not offending


def test_no_module_outgrows_its_room() -> None:
    sizes = {names(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > _room(name)} == {}


def _room(name: str) -> int:
    """A GPU kernel stands in one file with what launches it."""
    return 350 if name.endswith("/triton.py") and "/kernels/" in name else MAX_LINES


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from specdec.engine import Engine\n", encoding="utf-8")
    assert "specdec.engine" in imports(path)
