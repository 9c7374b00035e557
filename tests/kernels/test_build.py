"""Compiling on first use, keeping what was compiled, and doing without where it cannot be."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from specdec.cache.paged import PagedCache
from specdec.errors import ConfigError
from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention
from specdec.kernels.cpu import build as building
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.build import BuildError, build, cache_folder, find_compiler
from specdec.kernels.cpu.library import Library
from specdec.kernels.linear import pack
from specdec.models import loading, reading
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.transformers import TransformersModel
from tests.kernels.variants import kernels, threads
from tests.tiny import llama_module

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo "{version}"; exit 0; fi
echo "$@" >> "{log}"
{work}
"""
WRITE_OUTPUT = 'while [ "$1" != -o ]; do shift; done; echo library > "$2"'


class FakeCompiler:
    """Stands in for the compiler on the search path, and notes every compilation."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.log = folder / "bin" / "c++", folder / "log"
        self.path.parent.mkdir()
        self.install()
        monkeypatch.setenv("PATH", f"{self.path.parent}:/usr/bin:/bin")

    def install(self, version: str = "fake 1.0", work: str = WRITE_OUTPUT) -> None:
        self.path.write_text(COMPILER.format(version=version, log=self.log, work=work))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def fork(work: Callable[[], object]) -> int:
    """Starts a child process that ends well if the result is true, and is killed if there is none within a minute."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return FakeCompiler(tmp_path, monkeypatch)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The test starts without a library, and what it finds is forgotten afterwards."""
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_what_was_compiled_is_kept(compiler: FakeCompiler, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first = build("native", folder)
    assert first.read_text() == "library\n"
    assert build("native", folder) == first
    assert compiler.calls == 1
    assert [path.name for path in folder.iterdir()] == [first.name]


def test_another_compiler_cpu_instruction_set_or_source_compiles_anew(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, header = tmp_path / "kept", tmp_path / "sources" / "cpu" / "simd.h"
    made = {build("native", folder), build("portable", folder)}
    compiler.install(version="fake 2.0")
    made.add(build("native", folder))
    monkeypatch.setattr(building, "FLAGS", (*building.FLAGS, "-g"))
    made.add(build("native", folder))
    monkeypatch.setattr(building, "cpu_description", lambda: "another CPU")
    made.add(build("native", folder))
    header.parent.mkdir(parents=True)
    header.write_text("// one")
    monkeypatch.setattr(building, "KERNELS", header.parent.parent)
    made.add(build("native", folder))
    header.write_text("// two")
    made.add(build("native", folder))
    assert len(made) == compiler.calls == 7


def test_the_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "specdec" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "specdec" / "kernels"


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(compiler: FakeCompiler, tmp_path: Path) -> None:
    compiler.install(work="echo 'no such header: immintrin.h' >&2; exit 1")
    with pytest.raises(BuildError, match=r"-march=native .* failed: no such header: immintrin\.h"):
        build("native", tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_compiler_that_never_ends_is_given_up(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if "--version" in command:
            return subprocess.CompletedProcess(command, 0, stdout="fake")
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BuildError, match="could not be run"):
        build("native", tmp_path / "kept")


def test_a_compiler_that_cannot_run_is_an_error_of_the_build(compiler: FakeCompiler, tmp_path: Path) -> None:
    compiler.path.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(BuildError, match="could not be run"):
        build("native", tmp_path / "kept")


def test_a_folder_that_cannot_be_written_is_an_error_of_the_build(compiler: FakeCompiler, tmp_path: Path) -> None:
    """Such as a home folder that is a file, or read-only."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"file.*XDG_CACHE_HOME"):
        build("native", tmp_path / "file" / "kernels")


def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler .*c\+\+, g\+\+, clang\+\+.* Install"):
        find_compiler()


def test_any_of_the_compilers_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "clang++"
    other.write_text("")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() == str(other)


def test_a_file_that_is_no_library_is_an_error_of_the_build(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BuildError, match="cannot be loaded"):
        Library()


def test_a_structure_that_went_out_of_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"_fields_": [*native.Shape._fields_, ("forgotten", native.c_int64)]}
    larger = type("Larger", (native.Structure,), fields)
    replaced = [larger if mirrored is native.Shape else mirrored for mirrored in native.MIRRORED]
    for wrong in (replaced, native.MIRRORED[:-1], native.MIRRORED[::-1]):
        monkeypatch.setattr(native, "MIRRORED", tuple(wrong))
        with pytest.raises(BuildError, match=r"structures .* differ"):
            Library()


def test_a_name_that_is_no_function_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="multiply"):
        _ = kernels("native").multiply


def test_without_kernels_there_is_one_warning_and_a_model_runs_on_the_reference(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`backend="auto"` then takes transformers' own layers, and what needs the kernels is refused by name."""
    module: PreTrainedModel = llama_module()
    module.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(reading.AutoTokenizer, "from_pretrained", lambda *args, **options: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert native.library() is None
        model = loading.load(str(tmp_path / "model")).model
        with pytest.raises(ConfigError, match=r"int8.*a C\+\+ compiler.* use bfloat16"):
            loading.load(str(tmp_path / "model"), dtype="int8")
        with pytest.raises(ConfigError, match=r"'native'.* a C\+\+ compiler"):
            loading.load(str(tmp_path / "model"), backend="native")
    [ours] = [warning for warning in caught if "specdec" in str(warning.message)]
    assert ours.category is RuntimeWarning
    assert "slow reference kernels: there is no C++ compiler" in str(ours.message)
    assert isinstance(model, TransformersModel)
    cache = PagedCache(model.kv_layout, 2)
    cache.add(0)
    cache.reserve(0, 3)
    rows = SequenceRows([5, 6, 7], cache.slots(0), 0, logit_rows=[2])
    logits = model.run(RaggedBatch.build([rows]), cache.target).logits
    with torch.inference_mode():
        expected = llama_module()(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 2:]
    assert float((logits - expected).abs().max()) < 1e-4


@needs_fork
def test_processes_that_compile_at_the_same_time_both_succeed(compiler: FakeCompiler, tmp_path: Path) -> None:
    """Each waits inside its compilation until the other has begun its own."""
    wait = f'while [ "$(wc -l < "{compiler.log}")" -lt 2 ]; do :; done; '
    compiler.install(work=wait + WRITE_OUTPUT)
    children = [fork(lambda: build("native", tmp_path / "kept")) for _ in range(2)]
    assert [exit_code(child) for child in children] == [0, 0]
    assert compiler.calls == 2
    [path] = (tmp_path / "kept").iterdir()
    assert path.read_text() == "library\n"
    assert build("native", tmp_path / "kept") == path


@needs_fork
@pytest.mark.parametrize("number", [1, 2, 3], ids="{} threads".format)
def test_a_child_process_can_use_the_kernels_that_its_parent_has_used(number: int) -> None:
    """The threads of the parent do not exist in the child: waiting for them would take forever."""
    packed, x = pack(torch.randn(300, 40), "float32"), torch.randn(5, 40)
    with threads(number):
        expected = packed(x, kernels("native"))
        child = fork(lambda: torch.equal(packed(x, kernels("native")), expected))
        assert exit_code(child) == 0
        assert torch.equal(packed(x, kernels("native")), expected)


@needs_fork
def test_a_child_process_can_use_the_kernels_while_another_thread_of_its_parent_does() -> None:
    """The lock that this thread holds has no owner in the child: it must not be copied while it is held."""
    packed, x = pack(torch.randn(300, 4000), "float32"), torch.randn(5, 4000)
    within, enough = threading.Event(), threading.Event()

    def multiply() -> None:
        torch.set_num_threads(2)
        for _ in range(10_000):
            packed(x, kernels("native"))
            within.set()
            if enough.is_set():
                return

    with threads(2):
        expected = packed(x, kernels("native"))
        caller = threading.Thread(target=multiply)
        caller.start()
        assert within.wait(60)
        children = [fork(lambda: torch.equal(packed(x, kernels("native")), expected)) for _ in range(5)]
        enough.set()
        caller.join(60)
        assert [exit_code(child) for child in children] == [0] * 5
        assert torch.equal(packed(x, kernels("native")), expected)


def test_threads_that_call_different_kernels_do_not_meet() -> None:
    """They share the workers, so they must take turns; a failure hangs, hence the limits."""
    generator = torch.Generator().manual_seed(0)
    packed, x = pack(torch.randn(577, 100, generator=generator), "float32"), torch.randn(16, 100, generator=generator)
    query, keys, values = (torch.randn(40, 2, 16, generator=generator) for _ in range(3))
    held = key_values(keys, values, None, None)
    own = SequenceTable.of(SequenceColumns([40], [0], [0], [torch.arange(40)], [None]))
    wrong: list[str] = []

    def multiply() -> None:
        torch.set_num_threads(2)  # holds for the thread that calls it
        wrong.extend("linear" for _ in range(200) if not torch.equal(packed(x, kernels("native")), product))

    def attend() -> None:
        torch.set_num_threads(2)
        results = (native_attention(kernels("native"), query, held, 2, own, 0.3) for _ in range(200))
        wrong.extend("attention" for result in results if not torch.equal(result, attended))

    with threads(2):
        product = packed(x, kernels("native"))
        attended = native_attention(kernels("native"), query, held, 2, own, 0.3)
        callers = [threading.Thread(target=work, daemon=True) for work in (multiply, attend, multiply)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=60)
        assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
