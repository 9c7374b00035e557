"""What pip installs works anywhere: the wheel, in a folder that is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from specdec.stores import STOCK, STOCK_ROWS

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, as in site-packages."""
    pytest.importorskip("hatchling", reason="no hatchling: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, *words: str) -> str:
    """What `specdec <words>` prints; it must end well."""
    program = "import specdec, sys; from specdec.cli import main; print(specdec.__file__, file=sys.stderr); main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(site))
    return done.stdout


def test_the_wheel_holds_the_package_the_configs_and_the_command(site: Path) -> None:
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert files == {path.relative_to(site / "specdec" / "configs") for path in site.rglob("configs/**/*.yaml")}
    [entry_points] = site.glob("*.dist-info/entry_points.txt")
    assert "specdec = specdec.cli:main" in entry_points.read_text(encoding="utf-8")
    assert (site / "specdec" / "py.typed").is_file()
    for store in (STOCK, STOCK_ROWS):
        assert (site / "specdec" / "stores" / store.name).read_bytes() == store.read_bytes()
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"specdec"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["doctor"], "embedded model"),
        (["study", "--help"], "data.path=null"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_works_outside_of_a_checkout(site: Path, tmp_path: Path, words: list[str], part: str) -> None:
    """And leaves nothing behind. What each command does there, tests/test_newcomer.py tries."""
    assert part in run(site, tmp_path, *words)
    assert list(tmp_path.iterdir()) == []


LIBRARY = """
import sys
from importlib.machinery import PathFinder

MISSING = {"hydra", "omegaconf", "altair", "vl_convert", "wandb"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in MISSING else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
from specdec import SamplingParams, SpeculativeGenerator
from specdec.registry import DRAFTERS, POLICIES, RULES

for registry in (DRAFTERS, POLICIES, RULES):
    assert [registry.get(name) for name in registry.names()]
with SpeculativeGenerator.from_pretrained(drafter="ngram", policy="product") as generator:
    [generation] = generator.generate("Count: 1 2 3 1 2 3 1 2 3", SamplingParams(max_tokens=4))
assert not MISSING & set(sys.modules)
print(generation.text)
"""


def test_the_library_runs_without_hydra_charts_and_wandb(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == " 1 2\n"
