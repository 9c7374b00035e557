"""`make gpu-check`: silent where there is no GPU, and its own arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from benchmarks import gpu_check, gpu_kernels, gpu_large
from tests.kernels.gpu import DEVICE


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["gpu_check", "--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "x.md")]
    )
    gpu_check.main()
    assert "nothing is claimed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_table_follows_what_was_fastest() -> None:
    def row(rows: int, flat: float, library: float, **more: float) -> dict[str, float]:
        return {"n": 8, "k": 4, "rows": rows, "flat": flat, "library": library, **more}

    quick = [row(1, 2.0, 3.0, gemv=1.0), row(8, 2.0, 3.0), row(64, 4.0, 3.0)]
    assert gpu_kernels.table_of(quick)["by_shape"] == {"8×4": (1, 8)}  # type: ignore[arg-type]
    slow = [row(1, 2.0, 1.0, gemv=1.5), row(8, 2.0, 1.0)]
    assert gpu_kernels.table_of(slow)["by_shape"] == {"8×4": (0, 0)}  # type: ignore[arg-type]


def test_the_page_names_what_failed_and_what_changed() -> None:
    results = {
        "device": "a GPU",
        "tests": {"passed": False, "summary": "1 failed", "failures": ["FAILED x"]},
        "lossless": {"bfloat16, ngram, greedy": {"identical": 3, "of": 4}},
        "attention": [{"kernel": "attention", "ms": 0.5}],
        "linear": [{"kernel": "linear o", "flat": 0.25, "gemv": 0.125}, {"kernel": "linear o", "flat": 0.5}],
        "tuned": [{"kernel": "linear", "config": "c", "ms": float("inf")}],
        "engine": [{"batch": 1, "drafter": "ngram", "ratio": 1.5, "seconds": [1.0]}],
        "large": {"passes": [{"batch": 8, "× floor": 1.25}], "steps": [{"drafter": "head", "step, ms": 4.5}]},
        "broken": {"tuned": "RuntimeError: no room"},
    }
    page = gpu_check.markdown(results)
    for piece in (
        "a GPU",
        "FAILED x",
        "3/4",
        "| linear o | 0.25 | 0.125 |",
        "| linear o | 0.5 |  |",
        "| 1 | ngram | 1.5 |",
        "| 8 | 1.25 |",
        "| head | 4.5 |",
        "no room",
    ):
        assert piece in page


def test_a_part_that_breaks_leaves_the_others_alone() -> None:
    def breaks() -> object:
        raise RuntimeError("no room")

    parts = {"attention": breaks, "engine": lambda: [{"ratio": 2.5}]}
    results: dict[str, Any] = {"device": "a GPU", "attention": [{"ms": 0.125}]}
    kept = list[str]()
    gpu_check.check(parts, results, lambda: kept.append(gpu_check.markdown(results)))
    assert "no room" in results["broken"]["attention"]
    assert "attention" not in results
    assert results["engine"] == [{"ratio": 2.5}]
    assert ["| 2.5 |" in page for page in kept] == [False, True]


def test_what_it_runs_exists() -> None:
    assert all((Path(gpu_check.__file__).parents[1] / path).is_file() for path in gpu_check.TESTS)


@pytest.mark.slow
def test_passes_and_steps_of_a_small_model_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes of two texts, and of each drafter a step."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 256}  # fmt: skip
    few = {"PASSES": ((1, 1), (2, 1), (2, 3)), "PROMPT": 2, "STEPS": 5, "REPEATS": 1, "ROUNDS": 1, "DEPTHS": (1,),
           "NODES": 3, "BATCHES": (1,)}  # fmt: skip
    for name, value in few.items():
        monkeypatch.setattr(gpu_large, name, value)
    torch.manual_seed(0)
    config = LlamaConfig(**sizes)
    model = gpu_large.made(config, DEVICE)
    told = list(gpu_large.passes(model, floor=1.0, context=8))
    assert [(each["batch"], each["rows"]) for each in told] == [(1, 1), (2, 1), (2, 3)]
    assert all(each["pass, ms"] > 0 for each in told)
    steps = list(gpu_large.steps(model, config, known=30))
    assert [(each["batch"], each["drafter"]) for each in steps] == [(1, "none"), (1, "head, depth 1")]
    assert all(each["τ"] >= 1 for each in steps)
    assert steps[0]["× plain step"] == 1
