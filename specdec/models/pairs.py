"""What a model reads that is fed with states beside its tokens, on the CPU's kernels (kernels/passes/llama.h)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import PackedLinear, pack


@dataclass(frozen=True, eq=False)
class PairInput:
    """What a model reads that is fed with states: a token's embedding, and beside it a state.

    Args:
        token_norm, state_norm: float32 [hidden], what each is normed with; None for no norm.
        mix, mix_bias: [hidden, 2 · hidden] and [hidden] or None: makes the stream of both. None: the stream is the
            state, and the first layer's qkv reads both.
        starts_normed: the stream is the normed state.
        gives_normed: the next state is the normed stream.
        bare: neither the first layer's input nor the last stream is normed.
    """

    token_norm: Tensor | None
    state_norm: Tensor | None
    mix: Tensor | None = None
    mix_bias: Tensor | None = None
    starts_normed: bool = False
    gives_normed: bool = False
    bare: bool = False

    def packed(self, kind: str) -> PackedPairs:
        """For the kernels, with weights of a kind of `specdec.kernels.linear.KINDS`."""
        mix = None if self.mix is None else pack(self.mix, kind, self.mix_bias)
        norms = [native.address(norm, torch.float32) for norm in (self.token_norm, self.state_norm)]
        flags = (self.starts_normed, self.gives_normed, self.bare)
        struct = interface.Pairs(*norms, interface.Linear() if mix is None else mix.struct, *flags)
        return PackedPairs(struct, mix, self)


@dataclass(frozen=True, eq=False)
class PackedPairs:
    """See `PairInput`; `struct` is what the C interface takes, and points into the rest."""

    struct: interface.Pairs
    mix: PackedLinear | None
    source: PairInput
