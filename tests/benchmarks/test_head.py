"""The benchmark of heads runs to its end, and tells what a draft costs."""

from __future__ import annotations

import sys

import pytest

from benchmarks import head as benchmark


@pytest.mark.slow
@pytest.mark.parametrize("kind", benchmark.SMALL)
def test_the_benchmark_tells_what_a_draft_costs(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--kind", kind, "--tokens", "6", "--repeats", "1", "--draft-vocab-size", "512"]
    monkeypatch.setattr(sys, "argv", ["head", *options])
    benchmark.main()
    told = capsys.readouterr().out
    assert ("levels a draft" in told) == (kind == "eagle3")
    for words in ("of weights, read in", "a step's draft: ", "propose: ", "observe: ", "× floor"):
        assert words in told
