"""A head that drafts token by token on the CPU's kernels: a step is a pass of a small Llama that reads states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.pairrun import PairRows, StateLayout
from specdec.heads.pairs import PairHead
from specdec.heads.weights import norm_weights, pair_weights
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import pack
from specdec.kernels.markov import Grown
from specdec.models.batch import SequenceRows
from specdec.models.chains import ChainDraw, DrawnChain
from specdec.models.native import NativeModel
from specdec.models.pairs import PairModel, TreeLimits


class NativePairs:
    """See `PairRun`. The embedding is shared with the target.

    Rows are computed one by one, as in the target: a draft does not depend on what shares its pass.

    Args:
        head: of one of the architectures that `pair_weights` knows, without a bias behind attention; its weights are
            copied.
        target: on the same kernels.
        kind: form of the weights, a name of `specdec.kernels.linear.KINDS`; None takes the target's.
    """

    def __init__(self, head: PairHead, target: NativeModel, kind: str | None = None) -> None:
        kernels = native.library()
        assert kernels is not None
        assert not head.config.o_bias, "a bias behind attention does not run natively"
        self.config, kind = head.config, kind or target.kind
        weights, pairs = pair_weights(head, target)
        self._model = PairModel(weights, f"the head of {target.name}", kind, pairs)
        self._ids = head.draft_ids.contiguous()
        self.layout = self._model.kv_layout
        self.states = StateLayout(head.config.hidden_size, self.layout.dtype, "cpu")
        self._fuse = _Fuse(head, kind, kernels) if isinstance(head, Eagle3Head) else None

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that a step of the draft reads."""
        return self._model.num_bytes

    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairRun.fuse`."""
        return taps[:, 0] if self._fuse is None else self._fuse(taps)

    def step(self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, top: int) -> PairRows:
        """See `PairRun.step`: one call into the kernels (kernels/passes/llama.h)."""
        return PairRows(*self._model.run_pairs(parts, pool, states.float().contiguous(), top))

    def grow(
        self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, limits: Sequence[TreeLimits]
    ) -> list[Grown | None]:
        """See `PairRun.grow`."""
        return self._model.grow_pairs(parts, pool, states.float().contiguous(), limits, self._ids)

    def draw(
        self,
        pool: KVPool,
        parts: Sequence[SequenceRows],
        states: Tensor,
        draws: Sequence[ChainDraw],
        target_size: int,
    ) -> list[DrawnChain | None]:
        """See `PairRun.draw`."""
        return self._model.draw_pairs(parts, pool, states.float().contiguous(), draws, self._ids, target_size)


class _Fuse:
    """EAGLE-3's states: fc over the tapped states, with the norms before it."""

    def __init__(self, head: Eagle3Head, kind: str, kernels: native.Library) -> None:
        config, self._kernels = head.config, kernels
        self._shape = len(config.taps), config.target_hidden_size
        width = self._shape[0] * self._shape[1]
        norms = norm_weights(head.fc_norm if config.fc_norm else [head.input_norm])
        self._norms = torch.cat(norms) if norms else None
        bias = None if head.fc.bias is None else head.fc.bias.detach()
        self._product = pack(head.fc.weight.detach(), kind, bias)
        piece = width // max(len(norms), 1)
        self._struct = interface.Fuse(width, config.hidden_size, piece, config.rms_norm_eps, 0.0)
        self._struct.norms, self._struct.product = native.address(self._norms), self._product.struct

    def __call__(self, taps: Tensor) -> Tensor:
        """float32 [T, k, H] → [T, h]."""
        states = native.address(taps, torch.float32, (len(taps), *self._shape))
        out = torch.empty(len(taps), self._struct.hidden)
        self._kernels.fuse(self._struct, states, len(taps), out.data_ptr(), num_threads())
        return out
