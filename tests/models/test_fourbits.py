"""The 4-bit form of a model: the weights that it should have, over the cache that it should read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.kernels.linear.blocks import decoded
from specdec.kernels.linear.reference import quantize_rows
from specdec.kernels.linear.rounding import in_blocks
from specdec.models.blockfile import read_blocks
from specdec.models.fourbits import in_four_bits
from specdec.models.loading import load
from specdec.models.native import NativeModel
from specdec.models.packing import PackedLayer
from specdec.models.transformers import TransformersModel
from tests.models.test_blockfile import CONFIGS, MIXED, logits, made
from tests.models.tinyfiles import write_gguf
from tests.tiny import llama_module

TOKENS = [5, 9, 3, 30, 12, 5, 9, 4]
HELD = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
FOUR = dict.fromkeys(MIXED, "Q4_1") | {"token_embd": "Q8_0", "output": "Q8_0"}


def in_brain_floats() -> PreTrainedModel:
    """A module whose weights every dense kind holds as they are."""
    module = llama_module(0)
    for weight in module.parameters():
        weight.data = weight.data.bfloat16().float()
    return module


def eight_bits(weight: torch.Tensor) -> torch.Tensor:
    codes, scale = quantize_rows(weight)
    return codes.float() * scale[:, None]


@pytest.mark.parametrize("kind", HELD)
def test_the_form_of_a_native_model_is_what_its_weights_give_in_four_bits(kind: str) -> None:
    """To the bit; those of an 8-bit model are the ones that it computes with."""
    module, rounded = in_brain_floats(), in_brain_floats()
    if kind == "int8":
        for weight in [each.weight for each in rounded.modules() if isinstance(each, torch.nn.Linear)]:
            weight.data = eight_bits(weight.data)
    form = in_four_bits(NativeModel(module, "tiny", kind, HELD[kind]))
    assert form.kv_layout.dtype == HELD[kind]
    assert torch.equal(logits(form, TOKENS), logits(NativeModel(rounded, "tiny", "int4", HELD[kind]), TOKENS))
    assert form.num_bytes < 0.7 * NativeModel(module, "tiny", "bfloat16").num_bytes  # the head's have 8.5 bits


def test_the_form_of_any_other_model_has_rounded_layers_and_leaves_the_model_alone() -> None:
    """transformers' own pass over the rounded numbers; activations are rounded to 8 bits, about 1 % of a product."""
    target, expected = TransformersModel(llama_module(0), "tiny"), llama_module(0)
    before = logits(target, TOKENS)
    form = in_four_bits(target)
    for name, each in expected.named_modules():
        if isinstance(each, torch.nn.Linear):
            kind = "Q8_0" if name == "lm_head" else "Q4_1"
            each.weight.data = decoded(in_blocks(each.weight.data, kind), torch.float32)
    with torch.inference_mode():
        wanted = expected(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0]
    assert (logits(form, TOKENS) - wanted).norm() < 0.03 * wanted.norm()
    assert torch.equal(logits(target, TOKENS), before)
    assert not any(isinstance(each, PackedLayer) for each in target.module.modules())


def test_a_file_of_four_bits_keeps_its_own_blocks(tmp_path: Path) -> None:
    path = tmp_path / "four.gguf"
    write_gguf(path, made(CONFIGS["llama"]), kinds=FOUR)
    own, form = read_blocks(path, "x"), in_four_bits(load(str(path), dtype="bfloat16").model)
    layers = [*zip(own.products[0], form.products[0], strict=True)]
    for part in ("qkv", "o", "gate_up", "down"):
        assert all(torch.equal(getattr(a, part).tensors[0], getattr(b, part).tensors[0]) for a, b in layers)
    assert torch.equal(own.products[1].tensors[0], form.products[1].tensors[0])


def test_other_files_and_smoothed_weights_are_rounded(tmp_path: Path) -> None:
    """Of a file with 8-bit parts those would stay; and what SmoothQuant has moved is in no file."""
    mixed, four = tmp_path / "mixed.gguf", tmp_path / "four.gguf"
    write_gguf(mixed, made(CONFIGS["llama"]), kinds=MIXED)
    write_gguf(four, made(CONFIGS["llama"]), kinds=FOUR)
    form = in_four_bits(load(str(mixed), dtype="bfloat16").model)
    assert max(layer.down.bits for layer in form.products[0]) < 6
    smoothed = load(str(four), dtype="int8", kv_dtype="int8").model
    rounded = in_four_bits(smoothed)
    own = read_blocks(four, "x").products[0]
    assert not torch.equal(rounded.products[0][0].o.tensors[0], own[0].o.tensors[0])
    off = logits(rounded, TOKENS) - logits(smoothed, TOKENS)
    assert off.norm() < 0.5 * logits(smoothed, TOKENS).norm()  # values of another scale would be off by all of it


def test_what_has_no_such_form_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "four.gguf"
    write_gguf(path, made(CONFIGS["llama"]), kinds=FOUR)
    few = (NativeModel(llama_module(0), "tiny", "int4"), read_blocks(path, "tiny"),
           TransformersModel(llama_module(0), "tiny", "int4"))  # fmt: skip
    for target in few:
        with pytest.raises(
            UnsupportedModelError, match=r"tiny have 5\.\d bits each.*another drafter.*dtype='bfloat16'"
        ):
            in_four_bits(target)
    elsewhere = SimpleNamespace(name="tiny")
    with pytest.raises(UnsupportedModelError, match=r"tiny runs on SimpleNamespace, .*another drafter.*device='cpu'"):
        in_four_bits(elsewhere)  # type: ignore[arg-type]
