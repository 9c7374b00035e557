"""A model's 4-bit form: the same function by weights in blocks of four bits, over the same cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from specdec.errors import UnsupportedModelError
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import HEAD_KINDS, PackedLinear
from specdec.kernels.linear.layouts import TYPES
from specdec.models.base import CausalLM
from specdec.models.blockfile import read_blocks
from specdec.models.early_exit import shallow
from specdec.models.gguf import gguf_header
from specdec.models.native import NativeModel
from specdec.models.packing import PackedLayer
from specdec.models.products import LayerProducts
from specdec.models.transformers import TransformersModel

KIND = "int4"
HEAD = HEAD_KINDS[KIND]
MOST_BITS = 6.0
"""Of a weight: with fewer the 4-bit form is hardly any cheaper."""
LINEAR = (nn.Linear, Conv1D, PackedLayer)
OTHERS = "Take another drafter, such as 'head', 'suffix' or 'cascade'"


def in_four_bits(model: CausalLM) -> CausalLM:
    """The 4-bit form of a model. It reads the keys and values that the model has written, and writes its own as the
    model's cache holds them. It shares the embedding; all other matrices are its own. The head's have 8 bits.

    A model that was read from a GGUF file of four bits gets the file's own blocks. Other weights are rounded in groups
    of 32, each with the scale and minimum of least squared error.

    Raises:
        UnsupportedModelError: if there are no kernels for it, or the model has hardly more bits; says what to do.
    """
    if not isinstance(model, NativeModel | TransformersModel):
        raise UnsupportedModelError(
            f"{model.name} runs on {type(model).__name__}, and its 4-bit form needs the CPU's kernels. {OTHERS}, or "
            "device='cpu'."
        )
    if isinstance(model, NativeModel):
        return _native(model)
    if str(model.kv_layout.device) != "cpu" or native.library() is None:
        raise UnsupportedModelError(
            f"{model.name} runs on {model.kv_layout.device!s}, and its 4-bit form needs the CPU's kernels, which a C++ "
            f"compiler makes. {OTHERS}."
        )
    packed = next((each.packed for each in model.module.modules() if isinstance(each, PackedLayer)), None)
    _check_bits(model, float(torch.finfo(torch.float32).bits) if packed is None else packed.bits)
    head = model.module.get_output_embeddings()
    made: dict[int, nn.Module] = {id(head): _packed(head, HEAD)} if isinstance(head, LINEAR) else {}
    clone = copy.copy(model)
    clone.name, clone.module = _named(model), _rounded(model.module, made)
    return clone


def _native(model: NativeModel) -> NativeModel:
    layers, head = model.products
    _check_bits(model, layers[0].gate_up.bits)
    own = None if model.blocks is None else _blocks_of(model.blocks)
    rounded = own or ([layer.each(lambda product: product.repacked(KIND)) for layer in layers], head.repacked(HEAD))
    return model.with_products(*rounded, _named(model), KIND)


def _blocks_of(path: Path) -> tuple[list[LayerProducts[PackedLinear]], PackedLinear] | None:
    """Layers and head of a GGUF file in its own blocks; None if a layer's matrix has more than four bits, or the file
    cannot be kept as it is."""
    tensors = gguf_header(path).tensors
    matrices = [each for name, each in tensors.items() if name.startswith("blk.") and len(each.shape) > 1]
    if any(each.dtype not in TYPES or TYPES[each.dtype].bits > 4 for each in matrices):
        return None
    try:
        return read_blocks(path, path.name).products
    except UnsupportedModelError:
        return None


def _check_bits(model: CausalLM, bits: float) -> None:
    if bits < MOST_BITS:
        raise UnsupportedModelError(
            f"The weights of {model.name} have {bits:.1f} bits each, so its 4-bit form would draft at the price of a "
            f"pass. {OTHERS}, or load the target with dtype='bfloat16'."
        )


def _rounded(module: Any, made: dict[int, nn.Module]) -> Any:
    """A copy of a module whose linear layers have four bits; all else is shared with it.

    Args:
        module: any part of a model.
        made: the copies of parts that have been met, by the `id` of the part: what is used twice stays one.
    """
    if id(module) not in made:
        if isinstance(module, LINEAR):
            made[id(module)] = _packed(module, KIND)
        else:
            made[id(module)] = clone = shallow(module)
            clone._modules = {name: part and _rounded(part, made) for name, part in module._modules.items()}
    return made[id(module)]


def _packed(module: Any, kind: str) -> PackedLayer:
    return PackedLayer(module.weight.T if isinstance(module, Conv1D) else module.weight, module.bias, kind)


def _named(model: CausalLM) -> str:
    return f"{model.name} in 4 bits"
