"""Medusa-1 (arXiv 2401.10774): several heads on the last state, each for a token further ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.errors import ConfigError
from specdec.heads.base import ChainHead
from specdec.heads.config import HeadConfig
from specdec.models.llama import LlamaWeights


class MedusaBlocks(nn.Module):
    """The residual blocks of one head: x + SiLU(W x + b), W = 0 at first."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = nn.ModuleList([nn.Linear(width, width, bias=config.fc_bias) for _ in range(config.num_layers)])
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., h] → the same."""
        return through(self.layers, x)


def through(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """[..., h] → the same, behind one head's residual blocks; the layers say W x + b."""
    for layer in layers:
        x = x + functional.silu(layer(x))
    return x


class MedusaHead(ChainHead):
    """Medusa heads, with output rows of their own (as the authors have them) or all with the target's.

    Head i reads the state of position t, after the target's last norm, and gives the token at t + 2 + i.
    """

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        there = config.medusa_heads and config.num_layers
        if not there or config.taps != (config.target_layers,) or config.own_embedding:
            raise ConfigError(
                f"Medusa heads are one or more, of one block or more, that read the last state and no embedding; got "
                f"medusa_heads={config.medusa_heads}, num_layers={config.num_layers}, taps={config.taps} of "
                f"{config.target_layers} layers, own_embedding={config.own_embedding}."
            )
        if config.hidden_size != config.target_hidden_size:
            raise ConfigError(f"Medusa heads are as wide as the target: {config.target_hidden_size}, not "
                              f"{config.hidden_size}.")  # fmt: skip
        super().__init__(config, draft_ids)
        self.blocks = nn.ModuleList([MedusaBlocks(config) for _ in range(config.medusa_heads)])
        if config.own_output:
            del self.lm_head
            rows = (config.hidden_size, config.draft_vocab_size)
            self.lm_heads = nn.ModuleList([nn.Linear(*rows, bias=False) for _ in range(config.medusa_heads)])

    def forward(self, taps: Tensor) -> Tensor:
        """The target's last states [B, S, 1, H] → logits [B, S, n, Vd] of n heads."""
        hidden = self.hidden(taps)
        if not self.config.own_output:
            return self.vocabulary_logits(hidden)
        return torch.stack([rows(x) for rows, x in zip(self.lm_heads, hidden.unbind(-2), strict=True)], -2)

    def hidden(self, taps: Tensor) -> Tensor:
        """What the logits are made of, [..., 1, H] → [..., n, h]."""
        state = taps.to(self.dtype)[..., 0, :]
        return torch.stack([blocks(state) for blocks in self.blocks], -2)

    def draft_states(self, taps: Tensor, tokens: Tensor, anchors: Tensor, mask: Tensor, depth: int) -> Tensor:
        """See `ChainHead.draft_states`: head k, on the state that has given the anchor.

        Raises:
            ConfigError: if the heads have output rows of their own: what is trained shares the target's.
        """
        if self.config.own_output:
            raise ConfigError("Medusa heads with own_output cannot be trained here. Share the target's output rows.")
        places = torch.where(mask, anchors - 1, 0)[..., None, None].expand(-1, -1, *taps.shape[2:])
        return self.hidden(taps.gather(1, places))[:, :, :depth]

    @torch.no_grad()
    def start_from(self, target: LlamaWeights, seed: int = 0) -> None:
        """First weights: the target's output rows, if the heads have their own. Blocks begin as identities."""
        if self.config.own_output:
            for weight in self.lm_heads.parameters():
                weight.copy_(target.head[self.draft_ids.to(target.head.device)])
