"""EAGLE-1 and -2 (arXiv 2401.15077, 2406.16858): one layer on a token's embedding mixed with the target's last state.

Both have the same head; they differ in the trees that are drawn with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer
from specdec.heads.pairs import PairHead, check_last_state


class FirstLayer(DecoderLayer):
    """A decoder layer without a norm before attention."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        del self.input_layernorm


class Eagle1Head(PairHead):
    """An EAGLE-1 head; see the module. Parameters are named as in the authors' files."""

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        check_last_state(config)
        super().__init__(config, draft_ids)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.fc_bias)
        self.layers = nn.ModuleList([FirstLayer(config)])

    @property
    def layer(self) -> DecoderLayer:
        """See `PairHead.layer`."""
        [layer] = self.layers
        assert isinstance(layer, DecoderLayer)
        return layer

    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairHead.fuse`: the state as it is."""
        return taps.to(self.dtype)[..., 0, :]

    def inputs(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.inputs`: [..., h] both."""
        mixed = self.fc(torch.cat([embedded, state], -1))
        return mixed, mixed

    def outputs(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.outputs`: there is no norm."""
        return stream, stream
