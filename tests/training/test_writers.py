"""Large batches write what transformers' own `generate` writes, and draw from the target's law."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import PreTrainedModel

from specdec import EngineConfig, SpeculativeGenerator
from specdec.models.loading import LoadedModel
from specdec.models.transformers import TransformersModel
from specdec.training import batchwriter
from specdec.training.batchwriter import BatchWriter
from specdec.training.writers import EngineWriter, Way
from tests.tiny import VOCAB_SIZE, llama_module

PROMPTS = [[3, 5, 7], [1], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11], [40, 41], [3, 5, 8]]


def plain(module: PreTrainedModel, prompt: list[int], count: int, eos: tuple[int, ...]) -> list[int]:
    """One token after another, the whole text anew each time."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(module(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in eos:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("cells", [1, 200, 10_000])
@torch.inference_mode()
def test_greedy_texts_are_those_of_one_token_after_another(cells: int) -> None:
    module = llama_module(1)
    eos = (plain(module, PROMPTS[0], 9, ())[8], plain(module, PROMPTS[3], 3, ())[2])  # ends come at several steps
    limits = [70, 70, 40, 70, 1]
    texts = BatchWriter(module, eos, cells).write(PROMPTS, [Way(limit) for limit in limits])
    assert texts == [plain(module, *pair, eos) for pair in zip(PROMPTS, limits, strict=True)]
    assert len({len(text) for text in texts}) > 2


def test_the_engine_writes_the_same_greedy_texts() -> None:
    module = llama_module(1)
    engine = SpeculativeGenerator(
        LoadedModel(TransformersModel(module, "tiny"), None, (5,)), "none", config=EngineConfig(num_blocks=64)
    )
    ways = [Way(20)] * len(PROMPTS)
    assert EngineWriter(engine).write(PROMPTS, ways) == BatchWriter(module, (5,), 1000).write(PROMPTS, ways)


@torch.inference_mode()
def test_draws_follow_the_targets_law_and_its_nucleus() -> None:
    """Chance of a false alarm below 1e-4 (Pearson's χ² at its 1e-4 quantile)."""
    module, count = llama_module(2), 4000
    ways = [Way(1, 1.0, 0.8, seed=7)] * count + [Way(1, 0.0)]
    *texts, likeliest = BatchWriter(module, (), 1 << 15).write([[4, 2]] * (count + 1), ways)
    law = module(torch.tensor([[4, 2]])).logits[0, -1].double().softmax(-1)
    assert likeliest == [int(law.argmax())]
    chances, ids = law.sort(descending=True)
    kept = int((chances.cumsum(0) < 0.8).sum()) + 1  # the smallest set that has the mass
    expected = chances[:kept] / chances[:kept].sum() * count
    seen = torch.bincount(torch.tensor(texts)[:, 0], minlength=VOCAB_SIZE)[ids].double()
    assert seen[kept:].sum() == 0
    chi2 = ((seen[:kept] - expected) ** 2 / expected).sum()
    assert kept > 5
    assert chi2 < kept - 1 + 3.72 * (2 * (kept - 1)) ** 0.5 + 9.3  # Laurent and Massart 2000, lemma 1, at 1e-4


def test_the_same_seed_draws_the_same() -> None:
    writer = BatchWriter(llama_module(3), (), 50)
    draw = [Way(12, 1.0, 0.95, seed) for seed in range(5)]
    assert writer.write(PROMPTS, draw) == writer.write(PROMPTS, draw)
    assert writer.write(PROMPTS, draw) != writer.write(PROMPTS, [Way(12, 1.0, 0.95, seed + 9) for seed in range(5)])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
@torch.inference_mode()
def test_texts_are_the_same_where_single_rows_attend_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.kernels.gpu import DEVICE

    module = llama_module(1).to(DEVICE)
    monkeypatch.setattr(batchwriter, "triton_runs", lambda device: False)
    ways = [Way(12), Way(5), Way(7), Way(3), Way(1)]
    expected = BatchWriter(module, (5,), 100).write(PROMPTS, ways)
    monkeypatch.setattr(batchwriter, "triton_runs", lambda device: True)
    assert BatchWriter(module, (5,), 100).write(PROMPTS, ways) == expected
