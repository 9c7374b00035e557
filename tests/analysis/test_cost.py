"""The roofline twin: counted by hand, against a real model's sizes, and in the regimes that are published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.analysis.devices import DEVICES, Device
from specdec.analysis.roofline import (
    LLAMA_1B,
    LLAMA_8B,
    MODELS,
    SMOLLM2_135M,
    ModelShape,
    Work,
    Workload,
    expected_tokens,
    pass_work,
    predicted_speedup,
    seconds,
)
from specdec.models.loading import LoadedModel

TINY = ModelShape("tiny", layers=2, hidden=8, heads=2, kv_heads=1, head_size=4, intermediate=16, vocab=10)
PEAKS = dict.fromkeys(("bfloat16", "float32", "attention", "vector", "int8"), 1000.0)
PLAIN = Device("plain", 100.0, PEAKS, 1.0, 100.0, 0.0, 0.0, 1e9, "made up")


def by_name(work: list[Work]) -> dict[str, Work]:
    return {part.name: part for part in work}


def test_bytes_and_operations_of_a_small_pass_by_hand() -> None:
    """One sequence, 3 rows after 5 tokens: queries see 6, 7 and 8 keys."""
    work = by_name(pass_work(TINY, [3], [5], "bfloat16", "bfloat16", logit_rows=1))
    assert (work["qkv"].bytes, work["qkv"].operations) == (2 * (8 * 16 * 2 + 3 * (8 + 16) * 2), 2 * 2 * 3 * 8 * 16)
    assert work["down"].operations == 2 * 2 * 3 * 16 * 8
    assert work["attention"].operations == 2 * 4 * 8 * (6 + 7 + 8)
    assert work["attention"].bytes == 2 * 2 * 3 * 8 * 2
    assert work["attention"].entries == 2 * 8 * 2 * 4 * 2  # 8 entries of 2 · 4 numbers
    assert work["head"].operations == 2 * 1 * 8 * 10
    assert work["o"].launches == 2
    assert Work("x", 500.0, 1000.0, "vector", 3).seconds(PLAIN) == 5.0
    assert Work("x", 50.0, 4000.0, "vector", 3).seconds(PLAIN) == 4.0
    assert Work("x", 50.0, 4000.0, "vector", 3, entries=400.0).seconds(PLAIN) == 4.5
    assert Work("x", 200.0, 4000.0, "vector", 3).seconds(replace(PLAIN, overlap=0.25)) == 4.0 + 0.75 * 2.0
    launching = replace(PLAIN, launch=0.5, host=7.0)
    assert seconds([Work("x", 50.0, 4000.0, "vector", 3)], launching) == 4.0 + 1.5 + 7.0


def test_eight_bit_weights_and_caches_take_fewer_bytes() -> None:
    wide = by_name(pass_work(TINY, [1], [50], "bfloat16", "bfloat16"))
    narrow = by_name(pass_work(TINY, [1], [50], "int8", "int8"))
    assert wide["o"].bytes - narrow["o"].bytes == 2 * 8 * 8
    assert wide["attention"].entries - narrow["attention"].entries == 2 * 51 * 8
    assert by_name(pass_work(TINY, [1], [50], "int8_weight"))["o"].kind == "bfloat16"


def test_the_embedded_models_shape_is_its_own(embedded: LoadedModel) -> None:
    assert embedded.model.num_bytes == 4 * SMOLLM2_135M.weights  # type: ignore[attr-defined]


def test_published_sizes() -> None:
    """Parameters without the embedding, in billions."""
    assert LLAMA_8B.weights / 1e9 == pytest.approx(8.03 - 0.525, abs=0.02)
    assert MODELS["Llama-3.1-70B"].weights / 1e9 == pytest.approx(70.55 - 1.05, abs=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_speedup_falls_with_the_batch_at_short_context_and_holds_at_long(device: str) -> None:
    """MagicDec (Chen et al. 2024): with long contexts reading the cache binds, which verification shares."""

    def speedup(batch: int, context: int) -> float:
        return predicted_speedup(Workload(LLAMA_8B, DEVICES[device], batch, context), 0.8, 4)

    short = [speedup(batch, 256) for batch in (1, 32, 256, 1024)]
    assert short == sorted(short, reverse=True)
    assert short[0] > 2.5
    assert short[-1] < 1.3
    assert speedup(256, 32768) > 2.0
    assert speedup(256, 32768) > speedup(256, 256)


def test_a_drafting_model_costs_what_it_costs() -> None:
    workload = Workload(LLAMA_8B, DEVICES["H100"])
    free, drafted = predicted_speedup(workload, 0.8, 4), predicted_speedup(workload, 0.8, 4, LLAMA_1B)
    cost = Workload(LLAMA_1B, DEVICES["H100"]).pass_seconds(1)
    assert drafted < free
    want = expected_tokens(0.8, 4) * workload.pass_seconds(1) / (4 * cost + workload.pass_seconds(5))
    assert drafted == pytest.approx(want)


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(DEVICES)),
    st.integers(1, 512),
    st.integers(1, 100_000),
    st.floats(0, 1),
    st.integers(1, 12),
)
def test_no_speedup_exceeds_the_tokens_of_a_pass(
    model: str, device: str, batch: int, context: int, acceptance: float, drafts: int
) -> None:
    speedup = predicted_speedup(Workload(MODELS[model], DEVICES[device], batch, context), acceptance, drafts)
    assert 0 < speedup <= expected_tokens(acceptance, drafts)


def test_what_fits_into_memory() -> None:
    assert Workload(LLAMA_8B, DEVICES["A100"], 8, 4096).fits()
    assert not Workload(MODELS["Llama-3.1-70B"], DEVICES["A100"], 1, 16).fits()
    assert not Workload(LLAMA_8B, DEVICES["A100"], 512, 8192).fits()
