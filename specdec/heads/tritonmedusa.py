"""Medusa heads beside a target on Triton: their blocks and output rows are products of its kernels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from specdec.heads.medusa import MedusaBlocks, MedusaHead, through
from specdec.heads.medusarun import MedusaRun, Product
from specdec.heads.triton import RowProduct
from specdec.kernels.linear.triton_weights import stacked
from specdec.models.triton import TritonModel


class TritonMedusa(MedusaRun):
    """See `MedusaRun`. The bits of a row do not depend on what shares its pass.

    Args:
        head, target: see `MedusaRun`.
        weights: form of the weights, a name of `COMPUTED_IN`; None takes the target's.
    """

    def __init__(self, head: MedusaHead, target: TritonModel, weights: str | None = None) -> None:
        self._form = weights or target.kind
        super().__init__(head, target)
        self._blocks = [
            [RowProduct.of([layer], self._form) for layer in cast("list[nn.Linear]", list(blocks.layers))]
            for blocks in cast("list[MedusaBlocks]", list(self._head.blocks))
        ]

    def _hidden(self, states: Tensor) -> Tensor:
        return torch.stack([through(layers, states.float()) for layers in self._blocks], 1)

    def _product(self, weight: Tensor) -> Product:
        return RowProduct(stacked([weight.to(self.states.device)], self._form))
