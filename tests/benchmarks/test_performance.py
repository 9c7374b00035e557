"""docs/performance.md is made from result files, whatever of them is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import passes
from benchmarks.performance import document
from specdec.measure import results

SPLIT = {"batch": 8, "verify": 0.9, "draft": 0.01, "host": 0.09, "ms_per_sequence_and_step": 3.0}


def test_a_section_for_each_result_file_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results"
    monkeypatch.setattr("sys.argv", ["split.py", "--data", "/somewhere/of/mine/prompts.jsonl", "--limit", "8"])
    results.save(folder / "split.json", "benchmarks.split", {"int8, ngram, batch 8": SPLIT}, prompts=8)
    runs = [{"drafter": "ngram:3", "batch": 8, "tau": 1.5, "identical": 7, "of": 8}]
    results.save(folder / "lossless-int8.json", "benchmarks.lossless", {"int8, temperature 0": runs})
    page = document(folder)
    assert "## Where a step's time goes" in page
    assert "`python -m benchmarks.split --data prompts.jsonl --limit 8`" in page  # nothing of this machine's folders
    assert "| int8, ngram, batch 8 | 90.0% | 1.00% | 9.00% | 10.00% | ≤ 10%: met |" in page
    assert "| int8, temperature 0 | ngram:3 | 8 | 1.50 | 7/8 |" in page
    assert "## Comparison with other engines" not in page


def test_passes_are_read_back_with_numbers_as_keys(tmp_path: Path) -> None:
    """Ten rounds in which the floor is 8 ms, a row 10 ms and every further one 0.5 ms."""
    rounds = [(0.008, {rows: 0.0095 + 0.0005 * rows for rows in passes.ROWS})] * 10
    summary = passes.summary(rounds, num_bytes=240_000_000)
    assert summary["t1_over_floor"] == pytest.approx(1.25)
    assert summary["t8_over_t1"] == pytest.approx(1.35)
    assert summary["bandwidth_gb_s"] == pytest.approx(30)
    path = tmp_path / "passes.json"
    told = {"command": "c", "machine": "m", "note": "Cores apart.", "bfloat16": summary}
    path.write_text(json.dumps(told), encoding="utf-8")
    assert "`c`; m. Cores apart.\n" in document(tmp_path)
    assert "| bfloat16 | 240 | 30.0 | 8.00 | 1.25 (1.25 to 1.25) |" in document(tmp_path)
