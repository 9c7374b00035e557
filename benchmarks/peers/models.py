"""The embedded model's weights in each peer's format, made once.

All come from the same Q4_1 file: q4_1 is that file, bf16 and fp32 are its dequantized weights, all others are those
quantized again, as each engine does it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.contenders import HOME, MODELS, python_of
from benchmarks.peers.install import run_logged
from specdec.models.sources import embedded_folder, embedded_gguf

CONVERTERS = Path(__file__).parent / "converters"


def bf16_folder(target: Path) -> str | None:
    """Safetensors in bfloat16, with the tokenizer; for transformers and vLLM."""
    source = embedded_folder()
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return None


def int8_folder(target: Path) -> str | None:
    """The same in 8 bits for vLLM: a scale a row, tokens quantized as they come; the layout of compressed-tensors."""
    shutil.copytree(MODELS / "bf16", target)
    tensors = load_file(target / "model.safetensors")
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        weight = tensors[name].float()
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale.to(torch.bfloat16)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": eight | {"strategy": "channel", "dynamic": False},
        "input_activations": eight | {"strategy": "token", "dynamic": True},
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return None


def own_blocks(target: Path) -> str | None:
    """The embedded file itself."""
    target.symlink_to(embedded_gguf())
    return None


def gguf(target: Path) -> str | None:
    """A GGUF file of the type that its name says."""
    return _converted("llamacpp", "to_gguf.py", embedded_gguf(), target, target.stem)


def openvino(target: Path) -> str | None:
    """OpenVINO's intermediate representation in float32: its CPU plugin rounds it to bfloat16, as the others do."""
    return _converted("openvino", "to_openvino.py", embedded_folder(), target)


def openvino_compressed(target: Path) -> str | None:
    """The same with weights in as many bits as the name says, compressed by NNCF."""
    return _converted("openvino", "to_openvino.py", MODELS / "openvino", target, target.name.split("-")[1])


def onnx(target: Path) -> str | None:
    """ONNX Runtime GenAI's form with 4-bit blocks, by its own builder."""
    folder, options = str(MODELS / "bf16"), ["int4_block_size=32", "int4_accuracy_level=4"]
    builder = [str(python_of("onnxruntime")), "-m", "onnxruntime_genai.models.builder", "-m", folder, "-i", folder]
    with TemporaryDirectory() as cache:
        command = [*builder, "-o", str(target), "-c", cache, "-p", "int4", "-e", "cpu", "--extra_options", *options]
        return run_logged(command, HOME / "logs" / f"make-{target.name}.log")


def _converted(peer: str, script: str, source: Path, target: Path, *rest: str) -> str | None:
    command = [str(python_of(peer)), str(CONVERTERS / script), str(source), str(target), *rest]
    return run_logged(command, HOME / "logs" / f"make-{target.name}.log")


MAKERS: dict[str, dict[str, Callable[[Path], str | None]]] = {
    "transformers": {"bf16": bf16_folder},
    "llamacpp": {"bf16.gguf": gguf, "q8_0.gguf": gguf, "q4_0.gguf": gguf, "q4_1.gguf": own_blocks},
    "openvino": {"openvino": openvino, "openvino-int8": openvino_compressed, "openvino-int4": openvino_compressed},
    "vllm": {"bf16": bf16_folder, "vllm-int8": int8_folder},
    "onnxruntime": {"bf16": bf16_folder, "onnxruntime-int4": onnx},
}
"""Peer → what it reads, and what makes it; what is made of another one comes after it."""


def prepare(peer: str) -> str | None:
    """Makes what is missing of a peer's model files.

    Returns:
        Why it failed, or None.
    """
    for name, make in MAKERS[peer].items():
        target, scratch = MODELS / name, MODELS / "unfinished" / name
        if target.exists():
            continue
        print(f"Making {target} …", flush=True)
        shutil.rmtree(scratch.parent, ignore_errors=True)
        scratch.parent.mkdir(parents=True)
        if reason := make(scratch):
            return f"making its model failed: {reason}"
        scratch.rename(target)
    return None
