"""Makes any transformers model row-invariant: a row's bits no longer depend on the rows that share its pass.

Linear layers become packed ones, which multiply row by row, and activation functions treat every row alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from specdec.kernels.linear import PackedLinear, pack

ACTIVATIONS = tuple({entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})
LANES = 64
"""A multiple of what torch computes in one turn of a vector loop, whatever the CPU and the dtype."""
ONE_THREAD = 16384
"""Elements up to which torch leaves every elementwise operation to one thread: the least of its limits is that of gelu
(GELU_MIN_ELEMENTS_FOR_MULTI_THREADING in aten/src/ATen/native/cpu/Activation.cpp)."""


class PackedLayer(nn.Module):
    """Stands in for `nn.Linear` or GPT-2's `Conv1D`: the same product by the native kernel.

    Args:
        weight: [out, in].
        bias: [out] or None.
        kind: form of the packed weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: str) -> None:
        super().__init__()
        self.packed: PackedLinear = pack(weight.detach(), kind, None if bias is None else bias.detach())
        self.weight, self.bias = weight, bias  # some models look at their layers' shapes and dtypes

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out] in the dtype of `x`."""
        return self.packed(x).to(x.dtype)


class AlignedActivation(nn.Module):
    """An activation function that treats every row alike.

    torch computes whole vectors with one formula and the rest at the end of a thread's share with another, so that a
    row's bits would depend on where it lies. Here every row fills whole vectors, and no row is shared among threads.

    Args:
        inner: the activation, elementwise.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → the same."""
        width = x.shape[-1]
        rows = pad(x.reshape(-1, width), (0, -width % LANES))
        parts = torch.split(rows, max(1, ONE_THREAD // rows.shape[1]))
        return torch.cat([self.inner(part) for part in parts])[:, :width].view(x.shape)


def make_row_invariant(module: PreTrainedModel, kind: str) -> list[str]:
    """Packs every linear layer of `module` and aligns its activations, in place.

    Layers that share weights share the packed form.

    Returns:
        Names of the weight matrices that could not be packed because no linear layer holds them. Products with those
        are torch's own, whose bits depend on the number of rows.
    """
    made: dict[int, PackedLayer] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ACTIVATIONS):
                setattr(parent, name, AlignedActivation(child))
            if type(child) not in (nn.Linear, Conv1D):
                continue
            weight = child.weight.T if isinstance(child, Conv1D) else child.weight
            if id(child) not in made:
                made[id(child)] = PackedLayer(weight, child.bias, kind)
            setattr(parent, name, made[id(child)])
    held = (PackedLayer, nn.Embedding)
    return [
        f"{path}.{name}"
        for path, owner in module.named_modules()
        for name, weight in owner.named_parameters(recurse=False)
        if weight.dim() > 1 and not isinstance(owner, held)
    ]
