"""Every command and snippet that README and docs print runs as printed: from the wheel, outside of a checkout.

A page is read from top to bottom, in a folder of its own with the files that it speaks of. What takes minutes is made
short by settings in front of the reader's own; the list is `SHORTER`. What cannot run here is in `LEFT_OUT`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specdec.heads.shipped import SHIPPED
from specdec.models.sources import embedded_folder
from specdec.paths import cache_dir
from specdec.stores import STOCK
from tests.pages import LANGUAGES, PAGES, ROOT, blocks, commands, file_of
from tests.tiny import llama_module

LEFT_OUT = {
    r"^git clone": "needs a network, and an address that only the reader knows",
    r"^make ": "makes an environment from a package index first; .ci/run runs the targets",
    r"^source \.venv": "there is no checkout here",
    r"^pip install": "needs a package index; the environment of these tests has the wheel and what it asks for",
    r"data=mt_bench": "reads a set of the hub",
    r"data=speed_bench": "reads texts that NVIDIA's script has fetched",
    r"device=cuda": "needs a GPU; `make gpu-check` runs it there",
    r"experiments\.mutate": "takes hours; tests/proof/test_mutation.py runs it on single mistakes",
    r"reproduce heads": "takes hours; tests/experiments/test_heads_study.py runs it on a tiny target",
    r"--project specdec$": "writes to an account; the same command with --dry-run runs",
    r"tritonclient|experiments\.triton_repository": "installs NVIDIA's server; `make test-triton` runs it",
    r"^torchrun": "tests/commands/test_train.py trains in two processes",
    r"experiments\.leaderboard": "tests/experiments/test_leaderboard.py runs it",
}
"""Commands and snippets that do not run here, by a part of their text, and why."""

SMALL_RUN = "sampling.max_tokens=8 data.limit=1 profile=false"
SMALL_TRAINING = (
    "preset=tiny mix.packages=[] mix.passages=0 mix.tasks=0.8 mix.turn_tokens=20 answers.tokens=600 answers.chunk=16 "
    "answers.max_tokens=24 head.draft_vocab_size=200 held_out=2 loop.points=2 batching.texts=2 schedule.epochs=1"
)
SHORTER = {
    "specdec generate": "sampling.max_tokens=3 data.limit=1",
    "specdec study -m": SMALL_RUN,
    "specdec study": SMALL_RUN,
    "specdec certify": "quick=true rules=[token]",
    "specdec profile": "precisions=[int8]",
    "specdec layers search": "trials=2 data.limit=1",
    "specdec train": SMALL_TRAINING,
}
"""Settings that stand in front of the page's own, which count if both are given."""

BEFORE = {
    "experiments.md": (
        f"specdec study -m experiment=rules rule=token trace.save=true {SMALL_RUN}",
        "specdec study drafter=ngram study=before",
        "specdec study drafter=ngram study=after",
    )
}
"""Commands that a page takes as done."""
ADDRESS = "http://127.0.0.1:8000"
"""Where a server listens that a page starts. The tests take a free port."""

SAYS = {
    "README.md": r"^ 1 2 3 1 ",
    "add-a-drafter.md": r"^passed  memory",
    "add-a-rule.md": r"^False True False$",
    "experiments.md": r"^ngram (None|\d)",
    "drafters.md": r"^accepted_prediction_tokens [1-9]\d",
    "traces.md": r"^traversal 4 \d",
    "goals.md": r"^$",
    "grammars.md": r"^\{\"city\": ",
    "heads.md": r"^$",
    "programs.md": r"^good$",
    "sampling.md": r"^$",
    "serving.md": r"^\S",
}
"""What the snippets of a page print, all of them one after the other."""

pytestmark = pytest.mark.xdist_group("newcomer")


def is_left_out(command: str) -> bool:
    return any(re.search(part, command) for part in LEFT_OUT)


def snippets_of(page: Path) -> list[str]:
    """Those that are no files."""
    texts = [block.text for block in blocks(page, "python")]
    return [text for text in texts if not file_of(text) and not is_left_out(text)]


def shorter(command: str) -> str:
    """The command with our settings behind its own name; help is short as it is.

    >>> shorter("specdec generate -- 'a = b'")
    "specdec generate sampling.max_tokens=3 data.limit=1 -- 'a = b'"
    """
    for name in sorted(SHORTER, key=len, reverse=True):
        if name in command and "--help" not in command:
            return command.replace(name, f"{name} {SHORTER[name]}", 1)
    return command


def test_every_block_says_what_it_is() -> None:
    assert {block.language for page in PAGES for block in blocks(page)} == LANGUAGES


def test_no_exception_is_dead() -> None:
    snippets = [block.text for page in PAGES for block in blocks(page, "python")]
    printed = [*snippets, *(command for page in PAGES for command in commands(page))]
    assert len(printed) > 60
    assert [part for part in LEFT_OUT if not any(re.search(part, command) for command in printed)] == []
    assert [name for name in SHORTER if not any(name in command for command in printed)] == []
    assert set(SAYS) == {page.name for page in PAGES if snippets_of(page)}
    assert sum(map(is_left_out, printed)) < len(printed) / 3


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel in it. What the wheel asks for is that of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", symlinks=True)
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    python = folder / "env" / "bin" / "python"
    install = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True, timeout=300)
    (packages / "of_this_one.pth").write_text(sysconfig.get_path("purelib"))  # behind the wheel, which hides a checkout
    return python.parent


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the pages speak of."""
    rows = [{"question_id": n, "category": "c", "prompt": text, "question": text, "key": n, "text": text}
            for n, text in enumerate(["one two one two", "red blue red blue"])]  # fmt: skip
    for name in ("prompts.jsonl", "question.jsonl", "test.jsonl", "FILE", "my data/set (1).jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    (tmp_path / "question.txt").write_text("Why?\n", encoding="utf-8")
    (tmp_path / "schema.json").write_text('{"enum": ["Rome", "Oslo"]}', encoding="utf-8")
    (tmp_path / "my" / "notes").mkdir(parents=True)
    (tmp_path / "my" / "notes" / "a.txt").write_text("A note. " * 50, encoding="utf-8")
    shutil.copy(STOCK, tmp_path / "mine.store")
    [head] = SHIPPED.iterdir()
    for name in ("FOLDER", "my-head"):
        shutil.copytree(head, tmp_path / name)
    add_models(tmp_path)
    add_methods(tmp_path)
    for part in ("experiments", "benchmarks"):  # they are no part of the wheel: who runs them has a checkout
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def add_models(desk: Path) -> None:
    """MODEL, a SMALLER_MODEL with its tokenizer, and one whose chat template asks whether to think."""
    (desk / "MODEL").symlink_to(embedded_folder())
    for folder in (desk / "SMALLER_MODEL", desk / "QWEN3_MODEL"):
        llama_module(vocab_size=49152, hidden_size=16).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded_folder() / name, folder)
    template = "{% if enable_thinking %}Think. {% endif %}{{ messages[0].content }}"
    (desk / "QWEN3_MODEL" / "chat_template.jinja").write_text(template, encoding="utf-8")


def add_methods(desk: Path) -> None:
    """The drafter and the rule of the how-to pages, in the files that these name, and in one module."""
    texts = [block.text for page in PAGES for block in blocks(page, "python") if file_of(block.text)]
    for text in texts:
        path = desk / (file_of(text) or "")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (desk / "my_methods.py").write_text("\n".join(texts), encoding="utf-8")


def problems(page: Path, desk: Path, bin_folder: Path) -> Iterator[str]:
    """Commands that do not end well, with the end of what they say."""
    env = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(desk)}
    env |= {"XDG_CACHE_HOME": str(cache_dir().parent), "WANDB_MODE": "offline", "COLUMNS": "120"}
    env.pop("PYTHONPATH", None)

    def run(command: str, shown: str) -> Iterator[str]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=desk, env=env, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            yield f"{shown}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
        elif shown == "the snippets" and not re.search(SAYS[page.name], done.stdout, re.MULTILINE):
            yield f"{shown} print\n{done.stdout[-1500:]}"

    with ExitStack() as servers:
        addresses = []
        for command in [*BEFORE.get(page.name, ()), *commands(page)]:
            if starts_a_server(command):
                addresses.append(servers.enter_context(serving(command, desk, env)))
            elif not is_left_out(command):
                yield from run(with_job(shorter(command), desk), command)
        if snippets := snippets_of(page):
            text = "\n".join(snippets).replace(ADDRESS, [*addresses, ADDRESS][0])
            (desk / "snippets.py").write_text(text, encoding="utf-8")
            yield from run("python snippets.py", "the snippets")


def starts_a_server(command: str) -> bool:
    return command.startswith("specdec serve") and "--help" not in command


@contextmanager
def serving(command: str, desk: Path, env: dict[str, str]) -> Iterator[str]:
    """The address of a server, once it listens. It stops when it is asked to."""
    words = ["bash", "-c", f"exec {command} port=0"]
    with subprocess.Popen(words, cwd=desk, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening at (http://\S+)", line):
                break
        else:
            pytest.fail(f"{command}\n{''.join(said)}")
        try:
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=120)
    assert process.returncode in (0, 143, -signal.SIGTERM), command


def with_job(command: str, desk: Path) -> str:
    """The name of a job that is there, in place of JOB."""
    found = re.search(r"(runs/\w+)/JOB", command)
    jobs = [path.parent.name for path in (desk / found[1]).glob("*/summary.json")] if found else []
    return command.replace("/JOB", f"/{min(jobs)}") if jobs else command


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(p)) or blocks(p, "python")], ids=lambda p: p.stem)
def test_a_page_runs_as_printed(page: Path, desk: Path, bin_folder: Path) -> None:
    assert "\n\n".join(problems(page, desk, bin_folder)) == ""
