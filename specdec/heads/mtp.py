"""MTP layers (DeepSeek-V3, arXiv 2412.19437; reused for every step as in FastMTP, 2509.18362): a whole decoder layer on
the normed embedding and the normed last state of the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer, Norm
from specdec.heads.pairs import PairHead, check_last_state


class MtpLayer(DecoderLayer):
    """A decoder layer with what stands before and behind it."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.hidden_layernorm, self.token_layernorm = Norm(width, eps), Norm(width, eps)
        self.input_proj = nn.Linear(2 * width, width, bias=False)
        self.final_layernorm = Norm(width, eps)


class MtpHead(PairHead):
    """An MTP layer; see the module. Parameters are named as in speculators' files."""

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        check_last_state(config)
        super().__init__(config, draft_ids)
        self.mtp_layers = nn.ModuleList([MtpLayer(config)])

    @property
    def layer(self) -> MtpLayer:
        """See `PairHead.layer`."""
        [layer] = self.mtp_layers
        assert isinstance(layer, MtpLayer)
        return layer

    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairHead.fuse`: the state as it is."""
        return taps.to(self.dtype)[..., 0, :]

    def inputs(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.inputs`: [..., h] both."""
        layer = self.layer
        mixed = layer.input_proj(torch.cat([layer.token_layernorm(embedded), layer.hidden_layernorm(state)], -1))
        return layer.input_layernorm(mixed), mixed

    def outputs(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.outputs`: normed for both."""
        normed = self.layer.final_layernorm(stream)
        return normed, normed
