"""A head that drafts token by token on the Triton kernels: a step is a pass of a small Llama that reads states."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.pairrun import PairRows, PairRun, StateLayout
from specdec.heads.pairs import PairHead
from specdec.heads.triton import FusedTaps
from specdec.heads.weights import pair_weights
from specdec.kernels.markov import Grown
from specdec.kernels.rows.triton import tops
from specdec.models.base import PassOutput
from specdec.models.batch import SequenceRows
from specdec.models.pairs import TreeLimits
from specdec.models.triton import TritonModel
from specdec.models.tritonpairs import TritonPairModel


class TritonPairs(PairRun):
    """See `PairRun`. The embedding is shared with the target.

    Rows are computed one by one, as in the target: a draft does not depend on what shares its pass.

    Args:
        head: of one of the architectures that `pair_weights` knows, without a bias behind attention; its weights are
            copied.
        target: on the same kernels.
        kind: form of the weights, a name of `COMPUTED_IN`; None takes the target's.
    """

    def __init__(self, head: PairHead, target: TritonModel, kind: str | None = None) -> None:
        device, kind = target.kv_layout.device, kind or target.kind
        there = copy.deepcopy(head).to(device, torch.float32)
        weights, pairs = pair_weights(there, target)
        self.config = head.config
        self._ids = head.draft_ids.to(device)
        self._model = TritonPairModel(weights, f"the head of {target.name}", kind, pairs)
        self.layout = self._model.kv_layout
        self.states = StateLayout(head.config.hidden_size, self.layout.dtype, device)
        self._fuse = _fuse(there, kind) if isinstance(there, Eagle3Head) else None

    @torch.inference_mode()
    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairRun.fuse`."""
        there = taps.to(self.layout.device)
        return there[:, 0] if self._fuse is None else self._fuse(there)

    def step(self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, top: int) -> PairRows:
        """See `PairRun.step`."""
        logits, following = self._model.run_pairs(parts, pool, states.float().contiguous())
        if not top:
            return PairRows(PassOutput(logits), following)
        ids, chances = (each.cpu() for each in tops(logits, top))
        return PairRows(PassOutput(logits, tops=ids.int(), chances=chances), following)

    def grow(
        self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, limits: Sequence[TreeLimits]
    ) -> list[Grown | None]:
        """See `PairRun.grow`: those without noise, which is not known on the device before it is used."""
        plain = [index for index, limit in enumerate(limits) if limit.noise is None]
        found: list[Grown | None] = [None] * len(parts)
        if plain:
            each = torch.split(states, [len(part.tokens) for part in parts])
            given = torch.cat([each[index] for index in plain]).float()
            grown = self._model.grow_pairs(
                [parts[index] for index in plain], pool, given, [limits[index] for index in plain], self._ids
            )
            for index, tree in zip(plain, grown, strict=True):
                found[index] = tree
        return found


def _fuse(head: Eagle3Head, kind: str) -> FusedTaps:
    norms = head.fc_norm if head.config.fc_norm else [head.input_norm]
    return FusedTaps(norms, head.fc, head.config.rms_norm_eps, kind)
