"""The compiled kernels behind ctypes, and the one place that decides whether there are any."""

from __future__ import annotations

import ctypes
import os
import tempfile
import warnings
from collections.abc import Sequence
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.cpu.build import BuildError, build


class Linear(Structure):
    """linear/cpu.h"""

    _fields_ = [("kind", c_int32), ("gated", c_int32), ("n", c_int64), ("k", c_int64), ("weight", c_void_p),
                ("scale", c_void_p), ("sums", c_void_p), ("bias", c_void_p)]  # fmt: skip


class KeyValues(Structure):
    """attention/cpu.h"""

    _fields_ = [("kind", c_int32), ("keys", c_void_p), ("values", c_void_p), ("key_scales", c_void_p),
                ("value_scales", c_void_p), ("slot_step", c_int64), ("head_step", c_int64), ("slots", c_int64),
                ("heads", c_int64), ("size", c_int64)]  # fmt: skip


class Shape(Structure):
    """attention/cpu.h"""

    _fields_ = [("heads", c_int64), ("kv_heads", c_int64), ("head_size", c_int64), ("scale", c_float),
                ("window", c_int64), ("softcap", c_float)]  # fmt: skip


class Sequences(Structure):
    """attention/cpu.h"""

    _fields_ = [("count", c_int64), ("row_start", c_void_p), ("committed", c_void_p), ("first", c_void_p),
                ("slot_start", c_void_p), ("slots", c_void_p), ("parent_start", c_void_p),
                ("parents", c_void_p)]  # fmt: skip


class Layer(Structure):
    """passes/llama.h"""

    _fields_ = [("qkv", Linear), ("o", Linear), ("gate_up", Linear), ("down", Linear), ("input_norm", c_void_p),
                ("attention_norm", c_void_p), ("query_norm", c_void_p), ("key_norm", c_void_p), ("cache", KeyValues),
                ("window", c_int64), ("skips_attention", c_int32), ("skips_feed_forward", c_int32)]  # fmt: skip


class Model(Structure):
    """passes/llama.h"""

    _fields_ = [("num_layers", c_int64), ("hidden", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
                ("head_size", c_int64), ("intermediate", c_int64), ("vocab_size", c_int64), ("eps", c_float),
                ("scale", c_float), ("embedding_kind", c_int32), ("unused", c_int32), ("embedding", c_void_p),
                ("final_norm", c_void_p), ("frequencies", c_void_p), ("rope_scale", c_float), ("unused2", c_float),
                ("layers", POINTER(Layer)), ("head", Linear)]  # fmt: skip


class Batch(Structure):
    """passes/llama.h"""

    _fields_ = [("rows", c_int64), ("logit_rows", c_int64), ("num_taps", c_int64), ("kept", c_int64),
                ("tokens", c_void_p), ("positions", c_void_p), ("write_slots", c_void_p), ("logits_of", c_void_p),
                ("taps", c_void_p), ("hidden", c_void_p), ("sequences", Sequences)]  # fmt: skip


class RetrievalTexts(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("tokens", c_void_p), ("order", c_void_p), ("length", c_int64), ("width", c_int64), ("end", c_int64),
                ("depth", c_int64)]  # fmt: skip


class RetrievalLimits(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("min_match", c_int64), ("max_match", c_int64), ("max_depth", c_int64), ("max_nodes", c_int64),
                ("branches", c_int64), ("floor", c_double)]  # fmt: skip


class RetrievalDraft(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("given", c_int64), ("tokens", c_void_p), ("parents", c_void_p), ("matches", c_void_p),
                ("chances", c_void_p)]  # fmt: skip


class Best(Structure):
    """rows/largest.h"""

    _fields_ = [("value", c_float), ("token", c_int64)]


class SuffixBounds(Structure):
    """suffix/cpu.h"""

    _fields_ = [("nodes", c_int64), ("depth", c_int64), ("branches", c_int64), ("floor", c_double)]


class SuffixNodes(Structure):
    """suffix/cpu.h"""

    _fields_ = [("given", c_int64), ("tokens", c_void_p), ("parents", c_void_p), ("kinds", c_void_p),
                ("chances", c_void_p)]  # fmt: skip


MIRRORED = (Linear, KeyValues, Shape, Sequences, Layer, Model, Batch, Best, SuffixBounds, SuffixNodes,
            RetrievalTexts, RetrievalLimits, RetrievalDraft)  # fmt: skip
SIGNATURES: dict[str, list[Any]] = {
    "linear": [POINTER(Linear), c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int],
    "write": [POINTER(KeyValues), POINTER(Shape), c_void_p, c_void_p, c_void_p, c_int64],
    "attention": [c_void_p, c_int64, POINTER(KeyValues), POINTER(Shape), POINTER(Sequences), c_void_p, c_int],
    "rms_norm": [c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p],
    "rotate": [c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64],
    "forward": [POINTER(Model), POINTER(Batch), c_void_p, c_void_p, c_int],
    "argmax": [c_void_p, c_int64, POINTER(c_float), POINTER(c_int64)],
    "gumbel_argmax": [c_void_p, c_int64, c_uint64, c_uint32, c_uint32, POINTER(c_int64), c_int],
    "divide": [c_void_p, c_int64, c_float, c_void_p, c_int],
    "retrieve": [
        POINTER(RetrievalTexts),
        POINTER(RetrievalLimits),
        c_void_p,
        c_int64,
        POINTER(RetrievalDraft),
        POINTER(c_int64),
    ],
    "read": [c_void_p, c_int64, c_int],
    "suffix_new": [POINTER(c_void_p)],
    "suffix_free": [c_void_p],
    "suffix_extend": [c_void_p, c_void_p, c_int64, c_int],
    "suffix_bytes": [c_void_p, POINTER(c_int64)],
    "suffix_draft": [
        c_void_p,
        c_void_p,
        c_int64,
        c_void_p,
        c_int64,
        POINTER(SuffixBounds),
        POINTER(SuffixNodes),
        POINTER(c_int64),
    ],
}
"""Functions that check what they are given (gate.h): they return 0, or 1 when they refuse."""


class Library:
    """One compiled library; its functions are attributes without the prefix.

    Attributes:
        code: the bytes of its file.
        isa: the instruction sets that it uses.

    Raises:
        BuildError: if it cannot be compiled or loaded, or does not fit these structures.
    """

    def __init__(self, architecture: str = "native") -> None:
        self.architecture = architecture
        built = build(architecture)
        try:
            loaded = load(built.code)
        except BuildError:
            if not built.found:
                raise
            built = build(architecture, anew=True)  # the kept one may be of a system with another C library
            loaded = load(built.code)
        self.code = built.code
        sizes = (c_int64 * len(MIRRORED))()
        loaded.specdec_sizes.argtypes, loaded.specdec_sizes.restype = [POINTER(c_int64), c_int64], c_int64
        if loaded.specdec_sizes(sizes, len(sizes)) != len(MIRRORED) or list(sizes) != list(map(sizeof, MIRRORED)):
            raise BuildError(
                "the structures of the C interface and of Python differ: library.py must follow the headers"
            )
        for function in (loaded.specdec_isa, loaded.specdec_fault):
            function.argtypes, function.restype = [], c_char_p
        self.isa: str = loaded.specdec_isa().decode()
        self._fault = loaded.specdec_fault
        for name, arguments in SIGNATURES.items():
            function = getattr(loaded, f"specdec_{name}")
            function.argtypes, function.restype, function.errcheck = arguments, c_int, self._accepted
            setattr(self, name, function)

    def _accepted(self, refused: int, function: Any, arguments: tuple[Any, ...]) -> None:
        """Raises SpecdecError if a function refused what it was given."""
        if refused:
            reason = self._fault().decode(errors="replace")
            raise SpecdecError(f"The kernels refuse a call of {function.__name__}: {reason}.")

    def __getattr__(self, name: str) -> Any:  # the functions, for the type checker
        raise AttributeError(name)


def load(code: bytes) -> ctypes.CDLL:
    """A library from its bytes. What is mapped is a copy that no one else knows of: a file that shrinks while its
    library is in use ends the process.

    Raises:
        BuildError: if the system does not take it.
    """
    for load_copy in (_load_from_disk, _load_from_memory):
        try:
            return load_copy(code)
        except OSError as error:
            reason = error
    raise BuildError(f"The compiled kernels cannot be loaded: {reason}") from reason


def _load_from_disk(code: bytes) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="specdec-") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(code)
        return ctypes.CDLL(str(path))


def _load_from_memory(code: bytes) -> ctypes.CDLL:
    """Where no file can be written, or none that may be run."""
    if not hasattr(os, "memfd_create"):
        raise OSError("there is no folder whose files may be run")
    number = os.memfd_create("specdec-kernels")  # stays open: the loader knows a library by this name
    with open(number, "wb", closefd=False) as file:
        file.write(code)
    return ctypes.CDLL(f"/proc/self/fd/{number}")


@cache
def library() -> Library | None:
    """The kernels for this machine, or None, after one warning, where they cannot be had."""
    try:
        return Library()
    except BuildError as error:
        warnings.warn(f"specdec runs on its slow reference kernels: {error}", RuntimeWarning, stacklevel=2)
        return None


def address(tensor: Tensor | None, dtype: torch.dtype | None = None, shape: Sequence[int] | None = None) -> int | None:
    """Where a tensor's data begins, for the kernels; None for None.

    Args:
        tensor: dense, on the CPU.
        dtype, shape: what they must be, unless left out.

    Raises:
        SpecdecError: if it is something else.
    """
    if tensor is None:
        return None
    fits = dtype in (None, tensor.dtype) and (shape is None or tensor.shape == tuple(shape))
    if not fits or not tensor.is_contiguous() or tensor.device.type != "cpu":
        wanted = f"{dtype or 'numbers'} {'' if shape is None else list(shape)}".rstrip()
        raise SpecdecError(
            f"The kernels need dense {wanted} on the CPU, and were given {tensor.dtype} {list(tensor.shape)} "
            f"{'' if tensor.is_contiguous() else 'with gaps '}on {tensor.device}."
        )
    return tensor.data_ptr()
