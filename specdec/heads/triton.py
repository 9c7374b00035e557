"""A causal block head on the Triton kernels: its block pass is an ordinary pass of a small Llama."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specdec.cache import KVPool
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, confidence_row, markov_term, places
from specdec.heads.weights import block_weights, norm_weight, norm_weights
from specdec.kernels.linear.triton import LinearTable
from specdec.kernels.linear.triton_weights import COMPUTED_IN, TritonProduct, stacked
from specdec.kernels.norm.triton import rms_norm, rope_and_write
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.llama import own_float
from specdec.models.triton import TritonModel


class TritonBlock:
    """See `BlockRun`. The embedding is shared with the target.

    Rows are computed one by one, as in the target: the bits of a row do not depend on what shares its pass.

    Args:
        head: a causal one, without a bias behind attention; its weights are copied.
        target: on the same kernels.
        kind: form of the weights, a name of `COMPUTED_IN`; None takes the target's.
    """

    def __init__(self, head: BlockHead, target: TritonModel, kind: str | None = None) -> None:
        assert head.config.causal, "rows that see later ones do not run on Triton"
        device, kind = target.kv_layout.device, kind or target.kind
        there = copy.deepcopy(head).to(device, torch.float32)
        self.config, self._dtype = head.config, COMPUTED_IN[kind]
        self._sure = confidence_row(there)
        self._model = TritonModel.of(block_weights(there, target), f"the head of {target.name}", kind)
        self.layout = self._model.kv_layout
        self.term = markov_term(there)
        self.places: Sequence[int] = places(head)
        self._fuse = FusedTaps(there.fc_norm, there.fc, head.config.rms_norm_eps, kind)
        self._norm, self._frequencies = own_float(there.hidden_norm.weight), own_float(head.config.rotary[0]).to(device)
        attentions = [layer.self_attn for layer in there.decoder]
        self._sides = [RowProduct.of([each.k_proj, each.v_proj], kind, self._dtype) for each in attentions]
        self._key_norms = [norm_weight(each.k_norm) for each in attentions]

    @torch.inference_mode()
    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """See `BlockRun.remember`."""
        device, eps = self.layout.device, self.config.rms_norm_eps
        at, to = positions.to(device), slots.to(device)
        context = rms_norm(self._fuse(taps.to(device)), self._norm, eps, self._dtype)
        for index, (sides, norm) in enumerate(zip(self._sides, self._key_norms, strict=True)):
            norms, factor = None if norm is None else (norm, norm), self.config.rotary[1]  # there are no queries
            rope_and_write(sides(context), pool.layer(index), at, to, self._frequencies, 0, factor, norms, eps)

    def draft(self, pool: KVPool, blocks: Sequence[SequenceRows]) -> BlockRows:
        """See `BlockRun.draft`."""
        logits = self._model.run(RaggedBatch.build(blocks), pool).logits
        assert logits is not None
        if self._sure is None:
            return BlockRows(logits, None)
        return BlockRows(logits[:, :-1], logits[:, -1] + self._sure[1])


class FusedTaps:
    """fc over the tapped states of each position, with the norms before it.

    Args:
        norms: of each tap, or one of all taps side by side, or no norms; what is no norm among them does not count.
        fc: makes one vector of them.
        eps: of the norms.
        kind: form of the weights, a name of `COMPUTED_IN`.
    """

    def __init__(self, norms: Sequence[nn.Module] | nn.ModuleList, fc: nn.Linear, eps: float, kind: str) -> None:
        self._norms, self._eps, self._dtype = norm_weights(norms), eps, COMPUTED_IN[kind]
        self._product = RowProduct.of([fc], kind)

    def __call__(self, taps: Tensor) -> Tensor:
        """float32 [T, k, H] → [T, h]."""
        fused: Tensor = self._product(self._read(taps.flatten(1)))
        return fused

    def _read(self, states: Tensor) -> Tensor:
        if not self._norms:
            return states
        pieces = [piece.contiguous() for piece in states.chunk(len(self._norms), 1)]
        normed = [rms_norm(x, norm, self._eps, self._dtype) for x, norm in zip(pieces, self._norms, strict=True)]
        return torch.cat(normed, 1)


class RowProduct(nn.Module):
    """x Wᵀ + b, every row by itself: its bits do not depend on how many there are.

    Args:
        product: the weights.
        dtype: of what comes of it.
    """

    def __init__(self, product: TritonProduct, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._product, self._dtype, self._table = product, dtype, LinearTable()

    @classmethod
    def of(cls, linears: Sequence[nn.Linear], kind: str, dtype: torch.dtype = torch.float32) -> RowProduct:
        """Of layers that read the same, one after the other; `kind`: form of the weights, a name of `COMPUTED_IN`."""
        biases = [None if each.bias is None else each.bias.detach() for each in linears]
        return cls(stacked([each.weight.detach() for each in linears], kind, biases), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """float [..., K] → [..., N]."""
        rows = x.reshape(-1, x.shape[-1]).to(COMPUTED_IN[self._product.kind])
        return self._product(rows, self._dtype, self._table).view(*x.shape[:-1], -1)
