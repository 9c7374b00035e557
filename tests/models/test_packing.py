"""Packed products inside transformers' own layers: right, and row for row the same bits as plain decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from specdec.kernels.linear import KINDS
from specdec.models.packing import AlignedActivation, PackedLayer, make_row_invariant
from specdec.models.transformers import TransformersModel
from tests.fewer import every
from tests.kernels.variants import threads
from tests.models.bench import LLAMA, MAX_CONTEXT, WINDOW, Bench, Own, assert_close, make_module
from tests.models.scenes import PROMPT, SCENES, Decoded

pytestmark = pytest.mark.fewer(3)

WIDE = LLAMA | {"intermediate_size": 64}
UNEVEN = LLAMA | {"intermediate_size": 50}
"""Rows that end within a vector: torch computes silu and gelu with another formula there."""
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0}
GPT2 = {"vocab_size": 101, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": MAX_CONTEXT}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", WIDE),
    "llama, uneven": ("Llama", UNEVEN),
    "qwen3": ("Qwen3", WIDE | {"head_dim": 16}),
    "qwen3, uneven": ("Qwen3", UNEVEN | {"head_dim": 16}),
    "gemma2": ("Gemma2", WIDE | GEMMA | {"final_logit_softcapping": 3.0}),
    "gemma2, uneven": ("Gemma2", UNEVEN | GEMMA),
    "gpt2": ("GPT2", GPT2 | {"tie_word_embeddings": False}),
    "gpt2, uneven": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": 50}),
    "phi3": ("Phi3", WIDE),
    "gpt-neox": ("GPTNeoX", UNEVEN),
    "olmo2": ("Olmo2", WIDE),
    "glm4": ("Glm4", UNEVEN | {"head_dim": 8}),
}
UNPACKED = ("Mixtral", WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2})
"""Its router and its experts hold their weights in bare parameters."""


def assert_same_bits(name: str, arguments: tuple[str, dict[str, Any]], kind: str, held: torch.dtype) -> None:
    model = TransformersModel(make_module(*arguments), name, kind, held)
    decoded = Decoded(model)
    for scene in SCENES.values():
        texts, logits = scene(Bench(model, num_blocks=80))
        assert torch.equal(logits, decoded.last(texts))
    with threads(2):
        texts, logits = SCENES["batch of eight"](Bench(model, block_size=3, num_blocks=80))
    assert torch.equal(logits, decoded.last(texts))


@pytest.mark.parametrize("name", every(3, MODELS))
def test_a_rows_bits_are_those_of_plain_decoding(name: str) -> None:
    assert_same_bits(name, MODELS[name], "float32", torch.float32)


@pytest.mark.parametrize(
    ("kind", "held"), [("bfloat16", torch.bfloat16), ("int8", torch.int8), ("int8_weight", torch.float32)]
)
@pytest.mark.parametrize("name", every(3, ["qwen3", "gemma2", "gpt2"]))
def test_a_rows_bits_are_those_of_plain_decoding_when_rounded(name: str, kind: str, held: torch.dtype) -> None:
    assert_same_bits(name, MODELS[name], kind, held)


def test_a_model_whose_bits_cannot_be_promised_says_so() -> None:
    with pytest.warns(RuntimeWarning, match=r"outside of linear layers .*(gate|router|experts)"):
        model = TransformersModel(make_module(*UNPACKED), "mixtral", "float32")
    texts, logits = SCENES["batch of eight"](Bench(model, num_blocks=80))
    assert_close(logits, Own(make_module(*UNPACKED)).last(texts))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu"])
@pytest.mark.parametrize("width", [1, 50, 64, 1000])
def test_an_activation_gives_a_row_the_same_bits_anywhere(activation: str, width: int) -> None:
    rows = torch.randn(81, width, generator=torch.Generator().manual_seed(0))
    aligned = AlignedActivation(ACT2FN[activation])
    alone = torch.cat([aligned(row[None]) for row in rows])
    for number in (1, 2, 3):
        with threads(number):
            assert torch.equal(aligned(rows), alone)
    torch.testing.assert_close(alone, ACT2FN[activation](rows))


@pytest.mark.parametrize("name", MODELS)
def test_packed_float32_layers_give_the_logits_of_the_model_itself(name: str) -> None:
    model, own = TransformersModel(make_module(*MODELS[name]), name, "float32"), Own(make_module(*MODELS[name]))
    texts, logits = SCENES["batch of eight"](Bench(model, num_blocks=80))
    assert_close(logits, own.last(texts))


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_layer_is_packed_once(kind: str) -> None:
    for family, options in (("Llama", WIDE), ("GPT2", GPT2)):
        module = make_module(family, options)
        module.base_model.another_name = module.get_output_embeddings()
        number = sum(type(layer) is nn.Linear or type(layer).__name__ == "Conv1D" for layer in module.modules())
        assert make_row_invariant(module, kind) == []
        packed = [layer for layer in module.modules() if isinstance(layer, PackedLayer)]
        assert len(packed) == number
        assert not any(type(layer) is nn.Linear or type(layer).__name__ == "Conv1D" for layer in module.modules())
        assert module.base_model.another_name is module.get_output_embeddings()


def test_a_packed_layer_answers_in_the_dtype_it_was_asked_in() -> None:
    layer = PackedLayer(torch.randn(5, 7), torch.randn(5), "float32")
    x = torch.randn(2, 3, 7)
    assert layer(x).dtype == torch.float32
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, layer(x.bfloat16().float()).bfloat16())


def test_early_exit_of_a_packed_model_equals_a_packed_model_with_fewer_layers() -> None:
    small = make_module("Llama", WIDE | {"num_hidden_layers": 2}, seed=9)
    weights = make_module("Llama", WIDE).state_dict()
    small.load_state_dict({key: weights[key] for key in small.state_dict()})
    short = TransformersModel(make_module("Llama", WIDE), "tiny", "int8").truncated(2)
    alone = TransformersModel(small, "small", "int8")
    assert torch.equal(Bench(short).append(0, PROMPT), Bench(alone).append(0, PROMPT))
