"""The compiled kernels behind ctypes, and the one place that decides whether there are any."""

from __future__ import annotations

import ctypes
import os
import tempfile
import warnings
from array import array
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, sizeof
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.cpu.build import BuildError, build
from specdec.kernels.cpu.interface import MIRRORED, SIGNATURES


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
                "the structures of the C interface and of Python differ: interface.py must follow the headers"
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


def packed(lists: Sequence[Sequence[int]]) -> tuple[array[int], list[int]]:
    """Lists of integers as int64 one after the other, for the kernels, and where each begins. The first must be kept
    alive."""
    numbers = array("q", [number for each in lists for number in each])
    begin = numbers.buffer_info()[0]
    return numbers, [begin + numbers.itemsize * place for place in accumulate(map(len, lists[:-1]), initial=0)]


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
