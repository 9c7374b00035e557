"""SmoothQuant changes nothing before rounding, and less is lost in rounding after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from specdec import ConfigError
from specdec.cache import PagedCache
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from specdec.models.quantization import smooth
from tests.models.bench import Bench, Tapped
from tests.tiny import llama_module

TEXTS = [[1, 5, 9, 2, 6, 3, 3, 8], [7, 7, 1, 0, 4, 60, 31, 22, 11]]


def qwen2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    module = Qwen2ForCausalLM(config).eval()
    for layer in module.model.layers:
        torch.nn.init.normal_(layer.self_attn.v_proj.bias)
    return module


def with_outliers(module: PreTrainedModel) -> PreTrainedModel:
    """A few channels of the normed input are fifty times as large as the others, as in real models."""
    for layer in module.model.layers:
        layer.input_layernorm.weight.data[3] *= 50
        layer.post_attention_layernorm.weight.data[7] *= 50
    return module


@torch.inference_mode()
def own_logits(module: PreTrainedModel, text: list[int]) -> Tensor:
    return module(input_ids=torch.tensor([text]), use_cache=False).logits[0]


def native_logits(module: PreTrainedModel, kind: str, text: list[int]) -> Tensor:
    model = NativeModel(module, kind=kind, kv_dtype=torch.float32)
    cache = PagedCache(model.kv_layout, num_blocks=2)
    cache.add(0)
    cache.reserve(0, len(text))
    rows = SequenceRows(text, cache.slots(0), committed=0, logit_rows=range(len(text)))
    return model.run(RaggedBatch.build([rows]), cache.target).logits


@pytest.mark.parametrize("make", [llama_module, qwen2])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 1.0])
def test_the_smoothed_model_is_the_same_function(make: type[PreTrainedModel], alpha: float) -> None:
    module = with_outliers(make()).double()
    smoothed = copy.deepcopy(module)
    smooth(smoothed, TEXTS, alpha)
    for text in [*TEXTS, [9, 9, 9, 50, 51]]:
        before, after = own_logits(module, text), own_logits(smoothed, text)
        # float64, and scales of at most 1e5 either way: far from any rounding that matters.
        assert torch.allclose(before, after, rtol=1e-9, atol=1e-9 * float(before.abs().max()))
    changed = [not torch.equal(a, b) for a, b in zip(module.parameters(), smoothed.parameters(), strict=False)]
    assert sum(changed) > 10


def test_smoothing_lessens_the_error_of_eight_bits() -> None:
    module = with_outliers(llama_module())
    smoothed = copy.deepcopy(module)
    smooth(smoothed, TEXTS, 0.5)
    text = [4, 8, 15, 16, 23, 42, 1, 2]
    wanted = own_logits(module, text)
    plain, better = (float((native_logits(m, "int8", text) - wanted).norm()) for m in (module, smoothed))
    assert better < 0.6 * plain


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_must_be_a_share(alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"smoothing={alpha} must be from 0 to 1"):
        smooth(llama_module(), TEXTS, alpha)


@pytest.mark.parametrize("texts", [[], [[]]])
def test_without_text_there_is_nothing_to_measure(texts: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="calibration="):
        smooth(llama_module(), texts)


def test_heads_see_the_last_state_and_output_rows_as_they_were_before_smoothing() -> None:
    """A head is trained on a target that is not smoothed. What eight bits round is all that it may find changed: at
    most 1/254 of the largest number of a row, after the scales are undone."""
    module = with_outliers(llama_module())
    target, smoothed = NativeModel(module), copy.deepcopy(module)
    scales = smooth(smoothed, TEXTS, 0.5)
    rounded = NativeModel(smoothed, kind="int8", head_scales=scales)
    exact = NativeModel(smoothed, head_scales=scales)
    ids = range(target.vocab_size)
    wanted, found = target.unembed(ids), rounded.unembed(ids)
    bound = (wanted * scales).abs().amax(1, keepdim=True) / scales / 254
    assert bool(((wanted - found).abs() <= bound * (1 + 1e-5)).all())
    assert not torch.allclose(wanted, found * scales, rtol=0.1)  # the scales are no ones
    last, text = target.kv_layout.num_layers, TEXTS[0]
    before, after = (Bench(Tapped(each, [last])).append(0, text) for each in (target, exact))
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
