"""Checkpoints with quantized weights: refused by name before a weight is read, or decoded as `generate` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.bitnet import pack_weights
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from specdec import SamplingParams, SpeculativeGenerator
from specdec.errors import UnsupportedModelError
from specdec.models.loading import load
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from specdec.testing.drafters import PoisonDrafter
from tests.models.zoo import generated, save, tiny_config

PROMPT = [5, 9, 14, 33, 7, 5, 9, 14]
MISSING = {
    "awq": "gptqmodel",
    "gptq": "optimum",
    "aqlm": "aqlm",
    "quanto": "optimum-quanto",
    "quark": "Quark",
    "fouroversix": "fouroversix",
    "fp_quant": "GPU",
    "eetq": "kernels",
    "higgs": "GPU",
    "hqq": "HQQ",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "GPU",
    "torchao": "torchao",
    "vptq": "vptq",
    "auto-round": "auto-round",
}
"""Method → what it lacks where nothing was installed for it, and there is no GPU."""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plain weights; not to be changed."""
    folder = tmp_path_factory.mktemp("dense")
    save(tiny_config("llama", hidden_size=64, intermediate_size=128, head_dim=16), folder)
    return folder


def copied(dense: Path, folder: Path, weights: dict[str, Tensor] | None, **config: Any) -> Path:
    """The folder with other weights (or a file that is none), and additions to its configuration."""
    for file in dense.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if weights is None:
        (folder / "model.safetensors").write_bytes(b"never read")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", AUTO_QUANTIZER_MAPPING)
def test_every_method_that_transformers_knows_is_refused_in_words(dense: Path, tmp_path: Path, method: str) -> None:
    """The weights cannot be read, whatever the method; what it lacks is told before that comes out."""
    message = refusal(copied(dense, tmp_path, None, quantization_config={"quant_method": method, "bits": 4}))
    if method in MISSING:
        assert f"quantized by '{method}'" in message
        assert MISSING[method] in message
        assert "weights that were not quantized" in message


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("named", [True, False])
def test_bitsandbytes_is_known_by_its_bits(dense: Path, tmp_path: Path, bits: str, named: bool) -> None:
    given = {bits: True} | ({"quant_method": "bitsandbytes"} if named else {})
    message = refusal(copied(dense, tmp_path, None, quantization_config=given))
    assert "quantized by 'bitsandbytes'" in message
    assert "pip install" in message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"quantization_config": {"quant_method": "squeeze"}}, "quantized by 'squeeze', which transformers does not"),
        ({"quantization_config": {"group_size": 64, "bits": 4}}, "quantized by None, which transformers does not know"),
        ({"quantization_config": "gptq"}, "quantization_config = 'gptq' is not an object"),
        ({"quantization_config": {"quant_method": ["gptq"]}}, "transformers does not know"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX format"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors format"),
        ({"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "requires optimum"),
        ({"quantization_config": {"quant_method": "bitnet", "linear_class": "round"}}, "linear_class"),
    ],
    ids=str,
)
def test_what_nobody_knows_is_refused_by_name(dense: Path, tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    assert reason in refusal(copied(dense, tmp_path, None, **config))


def decoded(folder: Path) -> SpeculativeGenerator:
    """The generator, after its text was found to be that of `generate` with drafts that are all wrong."""
    generator = SpeculativeGenerator.from_pretrained(str(folder), PoisonDrafter())
    [generation] = generator.generate([PROMPT], SamplingParams(max_tokens=16, ignore_eos=True))
    assert generation.token_ids == generated(folder, PROMPT, 16)
    assert len(set(generation.token_ids)) > 2
    return generator


def test_fp8_weights_become_the_numbers_that_they_stand_for(dense: Path, tmp_path: Path) -> None:
    """Without a GPU for them transformers multiplies them out; then they run as any others."""
    weights, meant = load_file(dense / "model.safetensors"), load_file(dense / "model.safetensors")
    for name in [name for name in weights if "_proj" in name]:
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[name.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1)
        meant[name] = weights[name].float() * scale
    method = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (tmp_path / "fp8").mkdir()
    (tmp_path / "meant").mkdir()
    folder = copied(dense, tmp_path / "fp8", weights, quantization_config=method)
    assert isinstance(decoded(folder).loaded.model, NativeModel)
    assert generated(folder, PROMPT, 16) == generated(copied(dense, tmp_path / "meant", meant), PROMPT, 16)
    assert generated(folder, PROMPT, 16) != generated(dense, PROMPT, 16)


def test_packed_weights_never_reach_kernels_that_take_them_for_numbers(dense: Path, tmp_path: Path) -> None:
    """BitNet's are four to a byte: the Llama is no Llama to the native kernels, and runs in transformers' own code."""
    weights = load_file(dense / "model.safetensors")
    for name in [name for name in weights if "_proj" in name]:
        scale = 1 / weights[name].abs().mean()
        weights[name] = pack_weights((weights[name] * scale).round().clamp(-1, 1))
        weights[name.replace("weight", "weight_scale")] = scale.reshape(1)
    folder = copied(dense, tmp_path, weights, quantization_config={"quant_method": "bitnet"})
    with torch.compiler.set_stance("force_eager"):  # transformers would compile how weights are unpacked
        generator = decoded(folder)
    assert isinstance(generator.loaded.model, TransformersModel)
    with pytest.raises(UnsupportedModelError, match=r"its weights are held by BitLinear, not by plain linear layers"):
        load(str(folder), backend="native")
