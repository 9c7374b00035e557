"""What the pages name is there: commands, modules, files, kernels. tests/test_newcomer.py runs what they print."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

import specdec
from specdec import SpeculativeGenerator
from specdec.commands.table import COMMANDS
from specdec.models.loading import LoadedModel
from tests.pages import PAGES, ROOT, blocks
from tests.warm import Warm

DOCS = ROOT / "docs"
README = ROOT / "README.md"
RESULTS = DOCS / "results"


def test_the_readme_names_every_command_and_its_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    listed = {name for row in re.findall(r"^\| `specdec ([^|]*) \|", text, re.MULTILINE) for name in row.split("`")}
    firsts = {name.partition(" ")[0] for name in listed if name.strip(", ")}
    assert firsts == {command.partition(" ")[0] for command in COMMANDS} | {"show"}
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert len(links) > 20
    assert [link for link in links if not (README.parent / link).exists()] == []


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading row, without that row and the line below it."""
    table = page.read_text(encoding="utf-8").partition(f"{heading}\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


ENGINES = {"specdec": "ours", "transformers": "transformers", "llama.cpp": "llamacpp", "OpenVINO GenAI": "openvino"}
ENGINES |= {"vLLM (CPU)": "vllm", "ONNX Runtime GenAI": "onnxruntime"}
WAYS = {"none": "plain", "n-gram": "ngram", "`suffix`, `recycling`": "tables", "the trained head, then both": "head"}


def test_the_engines_of_the_readme_have_the_figures_of_the_file() -> None:
    told = json.loads((RESULTS / "peers-mixture.json").read_text(encoding="utf-8"))
    found = told["batch"]["1"]["contenders"]
    heading = "| engine | weights | speculation | tokens/s | ratio | same text as without it | perplexity |"
    shown: set[str] = set()
    for engine, dtype, way, *cells in rows_of(README, heading):
        name = f"{ENGINES[engine]}-{WAYS[way]}-{dtype}"
        same, perplexity = found[name]["same_as_plain"], told["perplexity"][f"{ENGINES[engine]}-plain-{dtype}"]
        speed, ratio = found[name]["tokens_per_second"]["median"], found[name]["ratio_to_baseline"]["median"]
        texts = f"{same['same']}/{same['of']}" if same else ""
        assert cells == [f"{speed:.0f}", f"{ratio:.2f}", texts, f"{perplexity:.1f}"]
        shown.add(name)
    fastest: dict[tuple[str, str], str] = {}
    for name in sorted(found, key=lambda name: found[name]["tokens_per_second"]["median"]):
        engine, _, dtype = name.split("-")
        fastest[engine, dtype] = name
    assert set(fastest.values()) <= shown


def test_the_drafters_of_the_readme_have_the_figures_of_the_files() -> None:
    heads, drafters = (
        json.loads((RESULTS / name).read_text(encoding="utf-8"))["results"]
        for name in ("heads-240.json", "drafters-39.json")
    )
    rows = rows_of(README, "| drafter | tokens per pass | × plain | × plain on open chat |")
    shown = [heads[name]["groups"] for name in ("head", "head>suffix>recycling:product")]
    for row, groups in zip(rows, shown, strict=True):
        figures = (groups["overall"]["tau"], groups["overall"]["ratio"], groups["open chat"]["ratio"])
        assert row[1:] == [f"{figure:.2f}" for figure in figures]
    by_kind = {kind: group["ratio"] for kind, group in shown[1].items()}
    text = " ".join(README.read_text(encoding="utf-8").split())
    most, least = (choose(by_kind, key=by_kind.__getitem__) for choose in (max, min))
    assert f"it is largest for {most} ({by_kind[most]:.2f}) and least for {least} ({by_kind[least]:.2f})" in text
    ngram, suffix, recycling = (drafters[name]["groups"]["overall"] for name in ("ngram", "suffix", "recycling"))
    assert "`ngram` emits {tau:.2f} tokens a pass and is {ratio:.2f} × as fast".format(**ngram) in text
    assert "`suffix` {tau:.2f} and {ratio:.2f}, ".format(**suffix) in text
    assert "`recycling` {tau:.2f} and {ratio:.2f} ".format(**recycling) in text


def test_commands_in_the_text_are_of_modules_and_commands_that_are_there() -> None:
    inline = [
        code for page in PAGES for code in re.findall(r"`((?:python -m|specdec) [^`]+)`", page.read_text("utf-8"))
    ]
    modules = {code.split()[2] for code in inline if code.startswith("python")}
    firsts = {code.split()[1] for code in inline if code.startswith("specdec")}
    assert len(modules) > 15
    assert [module for module in modules if find_spec(module) is None] == []
    assert firsts - {command.partition(" ")[0] for command in COMMANDS} <= {"COMMAND"}


OPTIONS = sorted(
    {
        (module, option)
        for page in PAGES
        for module, rest in re.findall(r"`python -m ([\w.]+)([^`]*)`", page.read_text("utf-8"))
        for option in re.findall(r" (--[\w-]+|[a-z_]+=)", re.sub(r"[\"'].*?[\"']", "", rest))
    }
)
"""Options of commands that stand in the text, with their modules; nothing runs these, as most measure for long."""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(Path(sys.executable), tmp_path_factory.mktemp("desk"), os.environ | {"PYTHONPATH": str(ROOT)}) as warm:
        yield warm


@pytest.mark.slow
@pytest.mark.xdist_group("options")
@pytest.mark.parametrize("module", sorted({module for module, _ in OPTIONS}))
def test_commands_in_the_text_have_options_that_are_there(module: str, warm: Warm) -> None:
    """Usage names them all: `--help` of one kind of command, and the refusal of `--help` by the other."""
    done = warm.run(f"python -m {module} --help")
    said = set(re.findall(r"--[\w-]+|\w+", done.stdout + done.stderr))
    assert len(said) > 5
    passed_on = "options" in said and "Valid" not in said  # words behind the options go to a drafter
    options = {option for of, option in OPTIONS if of == module and not (passed_on and option.endswith("="))}
    assert {option for option in options if option.rstrip("=") not in said} == set()


def test_the_citation_and_the_package_have_one_version() -> None:
    stated = [
        re.findall(rf'^version{sign} "?([^"\n]+)"?$', (README.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
        for file, sign in (("CITATION.cff", ":"), ("pyproject.toml", " ="))
    ]
    assert stated == [[specdec.__version__]] * 2


@pytest.mark.parametrize("kernel", ["attention", "linear", "blocks", "norm", "verdicts"])
def test_the_list_of_broken_kernels_is_complete(kernel: str) -> None:
    page = (DOCS / "add-a-kernel.md").read_text(encoding="utf-8")
    listed = {line.split("|")[2].strip() for line in page.splitlines() if line.startswith(f"| {kernel} |")}
    source = (DOCS.parent / "tests" / "kernels" / f"test_triton_{kernel}.py").read_text(encoding="utf-8")
    broken = set(re.findall(r'^    "([^"]+)": \(', source[source.index("BROKEN: dict") :], re.MULTILINE))
    assert listed == broken
    assert len(broken) >= 5


@pytest.mark.xdist_group("real model")
def test_the_programs_of_the_page_print_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded: LoadedModel
) -> None:
    loaded = partial(SpeculativeGenerator, embedded)  # it is loaded once for all tests
    monkeypatch.setattr(SpeculativeGenerator, "from_pretrained", loaded)
    programs = [block.text for block in blocks(DOCS / "programs.md", "python")]
    assert len(programs) == 6
    names: dict[str, object] = {}
    for block in programs:
        exec(block, names)
        assert capsys.readouterr().out.splitlines() == re.findall(r"^# (.*)$", block, re.MULTILINE)


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    entries = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    names = {name: getattr(specdec, name) for name in specdec.__all__}
    assert [name for name, value in names.items() if f"{value.__module__}.{name}" not in entries] == []
