"""The embedded model's weights in each peer's format, made once.

All come from the same Q4_1 file: bf16 and fp32 are its dequantized weights, q8_0 is those quantized again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
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


def gguf(target: Path) -> str | None:
    """A GGUF file of the type that its name says."""
    command = [str(python_of("llamacpp")), str(CONVERTERS / "to_gguf.py"), str(embedded_gguf()), str(target)]
    return run_logged([*command, target.stem], HOME / "logs" / f"make-{target.name}.log")


def openvino(target: Path) -> str | None:
    """OpenVINO's intermediate representation in float32: its CPU plugin rounds it to bfloat16, as the others do."""
    command = [str(python_of("openvino")), str(CONVERTERS / "to_openvino.py"), str(embedded_folder()), str(target)]
    return run_logged(command, HOME / "logs" / "make-openvino.log")


MAKERS: dict[str, dict[str, Callable[[Path], str | None]]] = {
    "transformers": {"bf16": bf16_folder},
    "llamacpp": {"bf16.gguf": gguf, "q8_0.gguf": gguf},
    "openvino": {"openvino": openvino},
    "vllm": {"bf16": bf16_folder},
}
"""Peer → what it reads, and what makes it."""


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
