"""The benchmark of stores runs to its end, and asks for what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import store as benchmark
from specdec.stores import Store, Vocabulary, read, write


def test_the_benchmark_tells_what_a_store_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", Store.of([[1, 2, 3, 4] * 20] * 5, Vocabulary.of(9, None), ordered=True))
    monkeypatch.setattr(sys, "argv", ["store", str(tmp_path / "a"), "--contexts", "6", "--repeats", "1"])
    benchmark.main()
    told = capsys.readouterr().out
    assert "400 tokens, 6." in told
    assert "a draft takes" in told
    asked = benchmark.contexts(read(tmp_path / "a"), 50)
    assert len(asked) == 50
    assert all(1 <= len(one) <= 17 for one in asked)
