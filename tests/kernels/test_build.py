"""Compiling on first use, keeping what was compiled, and doing without where it cannot be."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from ctypes import Structure, byref, c_float, c_int64
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from specdec import kept
from specdec.cache.paged import PagedCache
from specdec.errors import ConfigError
from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention
from specdec.kernels.cpu import build as building
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.build import BuildError, Built, build, cache_folder, find_compiler
from specdec.kernels.cpu.interface import Shape
from specdec.kernels.cpu.library import Library
from specdec.kernels.linear import pack
from specdec.models import loading, reading
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.transformers import TransformersModel
from tests.cachefolders import DAMAGES, below_a_file, damaged, unwritable
from tests.kernels.variants import ARCHITECTURES, kernels, threads
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
    first, second = build("native", folder), build("native", folder)
    assert (first.code, first.found) == (b"library\n", False)
    assert (second.code, second.found, second.path) == (first.code, True, first.path)
    assert compiler.calls == 1
    assert list(folder.iterdir()) == [first.path]


def test_another_compiler_cpu_instruction_set_or_source_compiles_anew(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, header = tmp_path / "kept", tmp_path / "sources" / "cpu" / "simd.h"
    made = {build("native", folder).path, build("portable", folder).path}
    compiler.install(version="fake 2.0")
    made.add(build("native", folder).path)
    monkeypatch.setattr(building, "FLAGS", (*building.FLAGS, "-g"))
    made.add(build("native", folder).path)
    monkeypatch.setattr(building, "cpu_description", lambda: "another CPU")
    made.add(build("native", folder).path)
    header.parent.mkdir(parents=True)
    header.write_text("// one")
    monkeypatch.setattr(building, "KERNELS", header.parent.parent)
    made.add(build("native", folder).path)
    header.write_text("// two")
    made.add(build("native", folder).path)
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
    assert not (tmp_path / "kept").exists()


def test_a_compiler_that_never_ends_is_given_up(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if "--version" in command:
            return subprocess.CompletedProcess(command, 0, stdout="fake")
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BuildError, match=r"did not end within \d+ s\. Try again when the machine has less to do"):
        build("native", tmp_path / "kept")


def test_a_compiler_that_cannot_run_is_an_error_of_the_build(compiler: FakeCompiler, tmp_path: Path) -> None:
    compiler.path.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(BuildError, match="could not be run"):
        build("native", tmp_path / "kept")


@unwritable
def test_where_nothing_can_be_kept_the_kernels_are_compiled_once(
    make_folder: Callable[[Path], Path], compiler: FakeCompiler, tmp_path: Path
) -> None:
    """Such as below a home folder that is a file, or read-only."""
    folder = make_folder(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"Nothing can be kept.*XDG_CACHE_HOME"):
        assert [build("native", folder).code for _ in range(2)] == [b"library\n"] * 2
    assert compiler.calls == 1


def test_without_a_temporary_folder_the_kernels_are_compiled_in_their_own(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(building.tempfile, "TemporaryDirectory", refuse)
    assert build("native", tmp_path / "kept").code == b"library\n"
    with pytest.raises(BuildError, match=r"no folder to compile in.*TMPDIR"):
        build("native", below_a_file(tmp_path))


@damaged
def test_a_kept_library_that_something_happened_to_is_compiled_anew(
    damage: Callable[[Path], object], compiler: FakeCompiler, tmp_path: Path
) -> None:
    first = build("native", tmp_path / "kept")
    damage(first.path)
    with pytest.warns(RuntimeWarning, match="made anew"):
        assert build("native", tmp_path / "kept").code == first.code
    assert build("native", tmp_path / "kept").found
    assert compiler.calls == 2


def writable_by_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o666)


def of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(building.os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("change", [writable_by_all, of_another_user])
def test_a_library_that_another_user_may_have_written_is_not_run(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    compiler: FakeCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = build("native", tmp_path / "kept")
    change(first.path, monkeypatch)
    with pytest.warns(RuntimeWarning, match="another user"):
        assert not build("native", tmp_path / "kept").found
    assert compiler.calls == 2


def no_compiler(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.path.unlink()
    monkeypatch.setenv("PATH", str(compiler.path.parent))


def broken_compiler(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.path.write_bytes(b"\x7fELF of another machine")


def newer_compiler_without_headers(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.install(version="fake 9", work="echo 'no such header' >&2; exit 1")


@pytest.mark.parametrize("lose", [no_compiler, broken_compiler, newer_compiler_without_headers])
def test_where_nothing_can_be_compiled_a_kept_library_serves(
    lose: Callable[[FakeCompiler, pytest.MonkeyPatch], None],
    compiler: FakeCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But none for another CPU or instruction set, none of other sources, and none that is damaged."""
    folder = tmp_path / "kept"
    first = build("native", folder)
    lose(compiler, monkeypatch)
    assert build("native", folder) == replace(first, found=True, compiler="")
    for architecture, patched in (("portable", {}), ("native", {"cpu_description": lambda: "another CPU"}),
                                  ("native", {"FLAGS": (*building.FLAGS, "-g")})):  # fmt: skip
        with monkeypatch.context() as context:
            for name, value in patched.items():
                context.setattr(building, name, value)
            with pytest.raises(BuildError):
                build(architecture, folder)
    os.truncate(first.path, 5)
    with pytest.warns(RuntimeWarning, match="made anew"), pytest.raises(BuildError):
        build("native", folder)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """A compiler that hands out kernels which were compiled before, and an empty cache."""
    (tmp_path / "real.so").write_bytes(kernels("native").code)
    compiler = FakeCompiler(tmp_path, monkeypatch)
    compiler.install(work=f'while [ "$1" != -o ]; do shift; done; cp "{tmp_path}/real.so" "$2"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return compiler


def works(library: Library) -> bool:
    row, largest, at = torch.tensor([1.0, 7.0, 3.0]), c_float(), c_int64()
    library.argmax(row.data_ptr(), 3, byref(largest), byref(at))
    return (at.value, largest.value) == (1, 7.0)


@needs_fork
def test_no_damage_to_a_kept_library_ends_the_process(real: FakeCompiler) -> None:
    """In a child, since a library that is loaded though it is damaged may kill whoever loads it."""

    def survives() -> bool:
        whole = build("portable")
        sealed = whole.path.read_bytes()
        warnings.simplefilter("ignore")
        for damage in (
            "half",
            "zeroed",
            "the second half zeroed",
            "a bit near the front",
            "a bit near the end",
            "junk",
        ):
            DAMAGES[damage](whole.path)
            recalled = building._kept(whole.path)
            whole.path.write_bytes(sealed)
            if recalled is not None or not works(Library("portable")):
                return False
        return True

    assert exit_code(fork(survives)) == 0


@needs_fork
def test_a_library_in_use_survives_whatever_happens_to_its_file(real: FakeCompiler) -> None:
    def survives() -> bool:
        library = Library("portable")
        [path] = cache_folder().iterdir()
        os.truncate(path, 0)
        os.truncate(path, 1 << 20)
        return works(library) and bool(library.isa)

    assert exit_code(fork(survives)) == 0


@pytest.mark.slow
@needs_fork
def test_libraries_can_be_loaded_where_no_file_may_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that this machine runs, since the loader tells libraries apart by their names."""

    def refuse(code: bytes) -> None:
        raise OSError("failed to map segment from shared object")

    wanted = [kernels(each).isa for each in ARCHITECTURES]
    monkeypatch.setattr(native, "_load_from_disk", refuse)

    def loads() -> bool:
        libraries = [Library(each) for each in ARCHITECTURES]
        return all(map(works, libraries)) and [library.isa for library in libraries] == wanted

    assert exit_code(fork(loads)) == 0


@needs_fork
def test_a_kept_library_that_this_system_cannot_load_is_compiled_anew(real: FakeCompiler) -> None:
    """Such as one that was linked against a newer C library, in a home folder that containers share."""

    def recovers() -> bool:
        path = build("portable").path
        kept.store(path, b"\x7fELF, but not for this system")
        return works(Library("portable")) and real.calls == 2

    assert exit_code(fork(recovers)) == 0


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
    fields = {"_fields_": [*Shape._fields_, ("forgotten", c_int64)]}
    larger = type("Larger", (Structure,), fields)
    replaced = [larger if mirrored is Shape else mirrored for mirrored in native.MIRRORED]
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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    assert build("native", tmp_path / "kept") == Built(b"library\n", path, found=True, compiler="fake 1.0")


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
