"""Medusa heads at work, beside any target: in torch, their output rows on the CPU's kernels where there are such.

Beside a target on Triton `tritonmedusa.py` runs them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from specdec.heads.base import output_rows
from specdec.heads.medusa import MedusaHead
from specdec.heads.pairrun import StateLayout
from specdec.heads.plain import working_dtype
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import pack
from specdec.kernels.markov import MarkovTerm
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel

Product = Callable[[Tensor], Tensor]


class MedusaRun:
    """All heads on some states.

    Args:
        head: is copied, and stays as it is.
        target: lends its output rows, where the heads have none of their own.
        weights: form of the output rows on the CPU's kernels; None takes the target's.
    """

    def __init__(self, head: MedusaHead, target: CausalLM, weights: str | None = None) -> None:
        device, dtype = target.kv_layout.device, working_dtype(target)
        self._head = copy.deepcopy(head).to(device, dtype).eval().requires_grad_(False)
        self.states = StateLayout(head.config.hidden_size, dtype, device)
        """Of the target's last states."""
        kernels = native.library() if isinstance(target, NativeModel) else None
        self.term = MarkovTerm(head.config.draft_vocab_size, None, None, kernels=kernels)
        """Nothing: no head knows what the one before it says."""
        self._kind = (weights or target.kind) if isinstance(target, NativeModel) else None
        self._products = [self._product(rows) for rows in _rows(head, target)]

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """The target's last states [R, h] → float32 [R, n, Vd], of head i for the token at t + 2 + i."""
        hidden = self._hidden(states)
        if not self._head.config.own_output:
            return self._products[0](hidden)
        return torch.stack([rows(x) for rows, x in zip(self._products, hidden.unbind(1), strict=True)], 1)

    def _hidden(self, states: Tensor) -> Tensor:
        """What the logits are made of, [R, h] → [R, n, h]."""
        return self._head.hidden(states[:, None])

    def _product(self, weight: Tensor) -> Product:
        """x Wᵀ in float32."""
        if self._kind is not None:
            packed = pack(weight, self._kind)
            return lambda x: packed(x)
        there = weight.to(self.states.device, self.states.dtype)
        return lambda x: linear(x, there).float()


def _rows(head: MedusaHead, target: CausalLM) -> list[Tensor]:
    """Output rows [Vd, h] of each head, or those that all of them share."""
    if not head.config.own_output:
        return [output_rows(head, target)]
    return [each.weight.detach() for each in head.lm_heads if isinstance(each, nn.Linear)]
