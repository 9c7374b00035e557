"""Who can run a model: a table of backends. The first that can, does; a refusal says of each why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.kernels.attention.native import CACHE_KINDS
from specdec.kernels.cpu import library as native
from specdec.kernels.device import triton_runs
from specdec.kernels.linear import KINDS
from specdec.kernels.linear.blocks import Blocks
from specdec.models.base import CausalLM
from specdec.models.blockfile import assembled, read_blocks
from specdec.models.llama import why_not_llama
from specdec.models.native import NativeModel, why_not
from specdec.models.products import Assembly
from specdec.models.quantization import smooth
from specdec.models.transformers import TransformersModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What torch can compute in."""
NO_BLOCKS = "a file's own blocks need the native kernels; use int4"
KV_DTYPES = DTYPES | {"int8": torch.int8, "float8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Wish:
    """What a model is to be run as; see `specdec.models.loading.load`.

    Args:
        name: what to call it in messages.
        dtype, kv_dtype, device, backend: names, `kv_dtype` may be None.
        smoothing: SmoothQuant's α or None.
        texts: makes the token ids to measure activations on, for those that need them.
        blocks: the GGUF file that the weights were read from, if they are those of one.
    """

    name: str
    dtype: str
    kv_dtype: str | None = None
    device: str = "cpu"
    backend: str = "auto"
    smoothing: float | None = None
    texts: Callable[[], Sequence[Sequence[int]]] = tuple
    blocks: Path | None = None

    @property
    def packs(self) -> bool:
        """Whether linear layers are packed for the CPU's kernels."""
        return self.device == "cpu" and self.dtype in KINDS and native.library() is not None

    @property
    def stored(self) -> torch.dtype:
        """What the files' weights are read as: layers are packed from the full ones, and what is not stays float32."""
        return torch.float32 if self.packs else DTYPES.get(self.dtype, torch.bfloat16)

    @property
    def cache(self) -> torch.dtype | None:
        """What the cache holds; None leaves it to the model.

        Weights of 8 bits or less leave it at bfloat16 unless another is asked for by name: it is small, and its errors
        add up.
        """
        if self.kv_dtype is None and not self.packs:
            return None
        return KV_DTYPES[self.kv_dtype or (self.dtype if self.dtype in DTYPES else "bfloat16")]


@dataclass(frozen=True)
class Backend:
    """One way to run models: a row of `BACKENDS`.

    Args:
        name: what messages call it.
        choice: the value of `backend=` that asks for it. Several rows may share one: the first that can, serves.
        why_not: reason why a wish cannot be met, in words that follow "name: "; None if it can. The module is None
            before anything is read: then it tells what can be told without.
        make: runs the module, which is on its device.
        keep: runs a GGUF file with its own blocks; None if it cannot.
    """

    name: str
    choice: str
    why_not: Callable[[Wish, PreTrainedModel | None], str | None]
    make: Callable[[Wish, PreTrainedModel], CausalLM]
    keep: Callable[[Wish, Path], CausalLM] | None = None


def _why_not_native(wish: Wish, module: PreTrainedModel | None) -> str | None:
    if wish.device != "cpu":
        return f"its kernels are for the CPU, not for {wish.device!r}"
    if wish.dtype not in KINDS:
        return f"its weights are {', '.join(KINDS)}, not {wish.dtype}"
    if native.library() is None:
        return "its kernels need a C++ compiler, and there is none"
    return _why_not_held(wish) or (None if module is None else why_not(module))


def _make_native(wish: Wish, module: PreTrainedModel) -> CausalLM:
    blocks, scales = wish.blocks, None
    if wish.dtype == "int8" and wish.smoothing is not None:
        scales = smooth(module, wish.texts(), wish.smoothing)
        blocks = None  # these are other weights, and other values in the cache
    return NativeModel(module, wish.name, wish.dtype, wish.cache, blocks=blocks, head_scales=scales)


def _keep_native(wish: Wish, file: Path) -> CausalLM:
    return read_blocks(file, wish.name, wish.cache)


def _why_not_triton(wish: Wish, module: PreTrainedModel | None) -> str | None:
    if not triton_runs(wish.device):
        return f"its kernels need a GPU and Triton, and {wish.device!r} has none"
    return None if module is None else why_not_llama(module)


def _make_triton(wish: Wish, module: PreTrainedModel) -> CausalLM:
    from specdec.models.triton import TritonModel

    return TritonModel(module, wish.name, wish.dtype, wish.cache)


def _keep_triton(wish: Wish, file: Path) -> CausalLM:
    from specdec.kernels.linear.triton_weights import TritonBlocks, stacked_blocks
    from specdec.models.triton import TritonModel

    def stack(parts: list[Blocks], biases: list[Tensor | None] | None = None, gated: bool = False) -> TritonBlocks:
        return stacked_blocks(parts, biases, wish.device)  # a gate is told from its values behind the product

    return assembled(file, wish.name, wish.cache, Assembly(stack, TritonModel.of_products, wish.device))


def _why_not_transformers(wish: Wish, module: PreTrainedModel | None) -> str | None:
    if not wish.packs:
        return None if wish.dtype in DTYPES else f"{wish.dtype} weights need the CPU's kernels; use bfloat16"
    return _why_not_held(wish)


def _make_transformers(wish: Wish, module: PreTrainedModel) -> CausalLM:
    return TransformersModel(module, wish.name, wish.dtype if wish.packs else None, wish.cache)


def _why_not_held(wish: Wish) -> str | None:
    if wish.cache in CACHE_KINDS:
        return None
    return f"kv_dtype={wish.kv_dtype!r} is not held by the CPU kernels; use float32, bfloat16 or int8"


BACKENDS = (
    Backend("native", "native", _why_not_native, _make_native, _keep_native),
    Backend("triton", "native", _why_not_triton, _make_triton, _keep_triton),
    Backend("transformers", "transformers", _why_not_transformers, _make_transformers),
)
"""From the fastest on."""


def choices() -> tuple[str, ...]:
    """Values of `backend=`."""
    return ("auto", *dict.fromkeys(row.choice for row in BACKENDS))


def candidates(wish: Wish, module: PreTrainedModel | None = None) -> list[Backend]:
    """The rows that can serve, the best first; there is at least one.

    Raises:
        ConfigError: if none can, whatever the model.
        UnsupportedModelError: if none can run this module.
    """
    asked = [row for row in BACKENDS if wish.backend in ("auto", row.choice)]
    blocks = wish.dtype == "gguf"
    reasons = {row.name: NO_BLOCKS if blocks and row.keep is None else row.why_not(wish, module) for row in asked}
    able = [row for row in asked if reasons[row.name] is None]
    if able:
        return able
    error = ConfigError if module is None else UnsupportedModelError
    raise error(
        f"{wish.name}: nothing here can run dtype={wish.dtype!r}, kv_dtype={wish.kv_dtype!r} on {wish.device!r} with "
        f"backend={wish.backend!r}. {' '.join(f'{name}: {reason}.' for name, reason in reasons.items())}"
    )
