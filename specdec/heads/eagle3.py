"""EAGLE-3 (arXiv 2503.01840) and its later flags (3.1): attention over a token's embedding beside a fused state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.errors import ConfigError
from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer, Norm, check_alike
from specdec.heads.pairs import PairHead
from specdec.models.llama import LlamaWeights


class MidLayer(DecoderLayer):
    """A decoder layer whose attention reads a token's embedding beside a state."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config, 2 * config.hidden_size)
        self.hidden_norm = Norm(config.hidden_size, config.rms_norm_eps)


class Eagle3Head(PairHead):
    """An EAGLE-3 head; see the module. Parameters are named as in the authors' files."""

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        super().__init__(config, draft_ids)
        if config.num_layers != 1 or (config.fc_norm and config.norm_before_fc):
            raise ConfigError(
                f"An EAGLE-3 head has one layer, and fc_norm or norm_before_fc but not both; got {config.num_layers} "
                f"layers, fc_norm={config.fc_norm}, norm_before_fc={config.norm_before_fc}."
            )
        width, eps, count = config.target_hidden_size, config.rms_norm_eps, len(config.taps)
        self.fc_norm = nn.ModuleList([Norm(width, eps) for _ in range(count)] if config.fc_norm else [])
        self.input_norm = Norm(count * width, eps) if config.norm_before_fc else nn.Identity()
        self.fc = nn.Linear(count * width, config.hidden_size, bias=config.fc_bias)
        self.midlayer = MidLayer(config)
        self.norm = Norm(config.hidden_size, eps)

    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairHead.fuse`."""
        taps = taps.to(self.dtype)
        if self.config.fc_norm:
            taps = torch.stack([norm(tap) for norm, tap in zip(self.fc_norm, taps.unbind(-2), strict=True)], -2)
        fused: Tensor = self.fc(self.input_norm(taps.flatten(-2)))
        return fused

    @property
    def layer(self) -> MidLayer:
        """See `PairHead.layer`."""
        return self.midlayer

    def inputs(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.inputs`: [..., 2h] and [..., h]."""
        normed = self.midlayer.hidden_norm(state)
        read = torch.cat([self.midlayer.input_layernorm(embedded), normed], -1)
        return read, normed if self.config.norm_before_residual else state

    def outputs(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairHead.outputs`."""
        hidden = self.norm(stream)
        return hidden, hidden if self.config.norm_output else stream

    @torch.no_grad()
    def start_from(self, target: LlamaWeights, seed: int = 0) -> None:
        """First weights: the target's last layer, whose attention does not look at the embedding, and final
        norm; fc that picks the last tap. If that is the boundary before the layer, the logits are the target's own.
        """
        check_alike(self.config, target)
        layer, width = target.layers[-1], self.config.hidden_size
        self.midlayer.copy(layer, [torch.cat([torch.zeros_like(weight), weight], 1) for weight in layer.qkv])
        self.midlayer.hidden_norm.weight.copy_(layer.norms[0])
        self.norm.weight.copy_(target.final_norm)
        self.fc.weight.zero_()[:, -width:].fill_diagonal_(1.0)
