"""Packed linear layers inside any transformers model."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from specdec.kernels.linear import PackedLinear, pack


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


def pack_linears(module: PreTrainedModel, kind: str) -> None:
    """Replaces every linear layer of `module`, in place; those that share weights share the packed form."""
    made: dict[int, PackedLayer] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) not in (nn.Linear, Conv1D):
                continue
            weight = child.weight.T if isinstance(child, Conv1D) else child.weight
            if id(child) not in made:
                made[id(child)] = PackedLayer(weight, child.bias, kind)
            setattr(parent, name, made[id(child)])
