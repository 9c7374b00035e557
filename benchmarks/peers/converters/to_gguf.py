"""Dequantizes, or quantizes anew, every matrix of a GGUF file: to_gguf.py SOURCE TARGET bf16|q8_0|q4_0."""

from __future__ import annotations

import sys

import llama_cpp

TYPES = {
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def convert(source: str, target: str, name: str) -> int:
    """Writes `target`; returns llama.cpp's status."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = TYPES[name]
    parameters.allow_requantize = True
    parameters.pure = True  # of its own accord, it would give some matrices another type
    if name == "q4_0":
        parameters.token_embedding_type = llama_cpp.GGML_TYPE_Q8_0  # as in the embedded file
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters))


if __name__ == "__main__":
    sys.exit(convert(*sys.argv[1:]))
