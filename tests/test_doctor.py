"""The doctor says what is in use, and says so too when something is missing."""

from __future__ import annotations

import sys

import pytest

from specdec import doctor
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.build import BuildError


def test_the_report_names_kernels_and_their_speed() -> None:
    found = dict(doctor.report())
    kernels = native.library()
    assert kernels is not None
    assert kernels.isa in found["instruction set"]
    assert float(found["reading speed"].split()[0]) > 0.1
    assert "int8" in found["weights as"]
    assert found["embedded model"] == "installed"


def test_without_a_compiler_the_report_says_what_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise BuildError("there is no C++ compiler")

    for name in ("find_compiler", "build"):
        monkeypatch.setattr(doctor, name, missing)
    monkeypatch.setattr(native, "library", lambda: None)
    found = dict(doctor.report())
    assert found["compiler"] == "there is no C++ compiler"
    assert found["kernels"] == "NOT IN USE, the slow reference serves: there is no C++ compiler"
    assert "int8" not in found["weights as"]


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["specdec doctor"])
    doctor.main()
    assert "instruction set" in capsys.readouterr().out
