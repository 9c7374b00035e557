"""The code in the how-to pages runs as it stands, and prints what the pages say."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import specdec
from specdec import SpeculativeGenerator
from specdec.commands.table import COMMANDS
from specdec.models.loading import LoadedModel

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_names_every_command_and_its_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    listed = {name for row in re.findall(r"^\| `specdec ([^|]*) \|", text, re.MULTILINE) for name in row.split("`")}
    firsts = {name.partition(" ")[0] for name in listed if name.strip(", ")}
    assert firsts == {command.partition(" ")[0] for command in COMMANDS} | {"show"}
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert len(links) > 20
    assert [link for link in links if not (README.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.xdist_group("real model")
def test_the_first_snippets_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    first, stream, *_ = python_blocks("../README.md")
    exec(first + stream, {})
    assert capsys.readouterr().out.startswith(" 1 2 3 1 ")


def test_the_citation_and_the_package_have_one_version() -> None:
    stated = [
        re.findall(rf'^version{sign} "?([^"\n]+)"?$', (README.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
        for file, sign in (("CITATION.cff", ":"), ("pyproject.toml", " ="))
    ]
    assert stated == [[specdec.__version__]] * 2


def import_as(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Makes `source` importable under a dotted name."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType(name.partition(".")[0]))
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, name, "exec"), module.__dict__)


def test_the_rule_of_the_page_is_found_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rule, use = python_blocks("add-a-rule.md")
    import_as(monkeypatch, "my_package.halved", rule)
    exec(use, {})
    first, *settings = capsys.readouterr().out.splitlines()
    assert first == re.findall(r"# (False True False)", use)[0]
    assert any(line.startswith("first test vector") for line in settings)


@pytest.mark.xdist_group("real model")
def test_the_drafter_of_the_page_drafts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    drafter, use, check = python_blocks("add-a-drafter.md")
    import_as(monkeypatch, "my_package.repeat", drafter)
    exec(use, {})
    assert float(capsys.readouterr().out.split()[-1]) >= 1
    exec(check, {})
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize("kernel", ["attention", "linear", "norm", "verdicts"])
def test_the_list_of_broken_kernels_is_complete(kernel: str) -> None:
    page = (DOCS / "add-a-kernel.md").read_text(encoding="utf-8")
    listed = {line.split("|")[2].strip() for line in page.splitlines() if line.startswith(f"| {kernel} |")}
    source = (DOCS.parent / "tests" / "kernels" / f"test_triton_{kernel}.py").read_text(encoding="utf-8")
    broken = set(re.findall(r'^    "([^"]+)": \(', source[source.index("BROKEN: dict") :], re.MULTILINE))
    assert listed == broken
    assert len(broken) >= 5


@pytest.mark.xdist_group("real model")
def test_the_prediction_of_the_page_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    [use] = [block for block in python_blocks("drafters.md") if "prediction=" in block]
    exec(use, {})
    accepted, rejected = (int(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert accepted > 10 > rejected


@pytest.mark.xdist_group("real model")
def test_the_programs_of_the_page_print_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded: LoadedModel
) -> None:
    loaded = partial(SpeculativeGenerator, embedded)  # it is loaded once for all tests
    monkeypatch.setattr(SpeculativeGenerator, "from_pretrained", loaded)
    blocks = python_blocks("programs.md")
    assert len(blocks) == 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
        assert capsys.readouterr().out.splitlines() == re.findall(r"^# (.*)$", block, re.MULTILINE)
