"""Ends of a command that no setting asks for: signals, streams that are closed, terminals that lack characters."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from specdec import cli, doctor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Iterator[tuple[str, str]]]], Any]:
    """Runs `specdec doctor` with another report; its exit code."""

    def run(report: Callable[[], Iterator[tuple[str, str]]]) -> Any:
        monkeypatch.setattr(doctor, "report", report)
        monkeypatch.setattr(sys, "argv", ["specdec", "doctor"])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
        return 0

    return run


def interrupted() -> Iterator[tuple[str, str]]:
    yield "one", "line"
    raise KeyboardInterrupt


def terminated() -> Iterator[tuple[str, str]]:
    yield "one", "line"
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def greek() -> Iterator[tuple[str, str]]:
    yield "τ", "α → 1"


@pytest.mark.parametrize(
    ("report", "code", "word"), [(interrupted, 130, "interrupted."), (terminated, 143, "terminated.")]
)
def test_a_signal_ends_in_one_line(
    report: Any, code: int, word: str, doing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert doing(report) == code
    assert capsys.readouterr().err == f"specdec: {word}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_reader_that_has_gone_is_no_error(
    doing: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert doing(lambda: iter([("x", "y" * 100)] * 10_000)) == 141
    assert capsys.readouterr().err == ""


def test_closed_streams_are_no_error(doing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert doing(greek) == 0
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_a_terminal_lacks_are_no_error(
    encoding: str, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert doing(greek) == 0
    stream.seek(0)
    assert "? 1" in stream.read()


def test_a_warning_is_one_line(doing: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def report() -> Iterator[tuple[str, str]]:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            print(warnings.formatwarning("two\nlines", RuntimeWarning, "x.py", 3), end="", file=sys.stderr)
        yield "x", "y"

    before = warnings.formatwarning
    assert doing(report) == 0
    assert capfd.readouterr().err == "specdec: two lines\n"
    assert warnings.formatwarning is before


def start(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "specdec", *words], cwd=ROOT, env=env, **options)


CERTIFY = ["certify", "quick=true", "rules=[greedy]"]


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii", "COLUMNS": "12", "TERM": "dumb"},
                                 {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "1"},
                                 {"TERM": "", "COLUMNS": "0", "NO_COLOR": "1"}])  # fmt: skip
def test_any_terminal_gets_its_table(env: dict[str, str]) -> None:
    process = start(CERTIFY, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, b"")
    assert b"greedy" in out


@pytest.mark.slow
def test_processes_whose_output_goes_nowhere() -> None:
    gone = start(CERTIFY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert gone.stdout is not None
    gone.stdout.close()
    gone.stdout = None
    _, err = gone.communicate(timeout=300)
    assert (gone.returncode, err) in ((1, b""), (141, b""))
    words = f"exec {sys.executable} -m specdec {' '.join(CERTIFY[:2])} 'rules=[greedy]' >&-"
    closed = subprocess.run(["sh", "-c", words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                            stderr=subprocess.PIPE, timeout=300, check=False)  # fmt: skip
    assert (closed.returncode, closed.stderr) == (0, b"")
