"""Imports point one way: a room may import what stands below it; no module outgrows its room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from specdec.cli import OF_STUDIES

ROOT = Path(__file__).parent.parent
ROOMS = (
    "__main__", "cli", "commands", "doctor", "study", "report", "testing", "measure", "serve", "__init__", "training",
    "generator", "programs", "analysis", "engine", "drafters", "heads", "stores", "policy", "proof", "verify", "models",
    "sampling", "cache", "kernels", "tracking", "prompts", "registry", "randomness", "stats", "kept", "paths", "places",
    "pages", "typed", "checks", "foreign", "errors",
)  # fmt: skip
"""From the top of `specdec` to its ground (docs/architecture.md)."""
OUTSIDE = ("experiments", "benchmarks")
"""They import specdec and themselves, and nothing imports them but the tests."""
MODULES = sorted(path for top in ("specdec", *OUTSIDE) for path in (ROOT / top).rglob("*.py"))
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


def room(module: str) -> str:
    """Of a dotted name below specdec; the package itself is a room: what users import."""
    first = module.split(".")[1:2]
    return first[0] if first and first[0] in ROOMS else "__init__"


def points_up(path: Path) -> list[str]:
    """Imports that the file may not have."""
    top, *below = path.relative_to(ROOT).with_suffix("").parts
    known = {"specdec", "experiments", "benchmarks", "tests"}
    ours = {name for name in imports(path) if name.split(".")[0] in known}
    if top in OUTSIDE:
        return sorted(name for name in ours if name.split(".")[0] not in ("specdec", top))
    own = ROOMS.index(below[0])
    return sorted(name for name in ours if not name.startswith("specdec") or ROOMS.index(room(name)) < own)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_imports_point_down(path: Path) -> None:
    assert points_up(path) == []


def test_the_library_needs_no_package_of_the_extras() -> None:
    """Hydra and charts are for commands and studies, wandb for its tracker."""
    needed = {
        (package.split(".")[0], path.relative_to(ROOT / "specdec").parts[0])
        for path in (ROOT / "specdec").rglob("*.py")
        for package in imports(path)
        if package.split(".")[0] in {*OF_STUDIES, "wandb"}
    }
    assert {package for package, _ in needed} == {*OF_STUDIES, "wandb"}
    assert {room for _, room in needed} == {"commands", "study", "report", "tracking"}
    assert {room for package, room in needed if package in ("altair", "vl_convert")} == {"report"}
    assert {package for package, room in needed if room == "tracking"} == {"wandb"}


def test_every_module_has_a_room() -> None:
    there = {
        path.stem for path in (ROOT / "specdec").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there == set(ROOMS)


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


def test_the_check_finds_an_import_that_points_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_structure.ROOT", tmp_path)
    drafter, study = tmp_path / "specdec/drafters/x.py", tmp_path / "experiments/y.py"
    for path, text in ((drafter, "import specdec.engine.request\nimport specdec.cache"), (study, "import tests.tiny")):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    assert points_up(drafter) == ["specdec.engine.request"]
    assert points_up(study) == ["tests.tiny"]
