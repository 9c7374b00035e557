"""EAGLE-3 (arXiv 2503.01840) and its later flags (3.1): one layer that drafts token by token, fed with its own output.

A *pair* is a state g_t and the token that was drawn from it, x_{t+1}, at rotary position t; from it the head predicts
x_{t+2}. States of committed positions are fused from the target's hidden states; those of a draft are the head's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specdec.errors import ConfigError
from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer, Norm, Pair, attend, check_alike, wide
from specdec.models.llama import LlamaWeights


@dataclass(frozen=True)
class Eagle3Step:
    """What a step gives for its R rows.

    Args:
        hidden: [B, R, h], normed: what logits are made of.
        state: [B, R, h], the state that the next step of the draft takes in place of the target's.
        held: keys and values of the rows, [B, R, KV heads, D]; those of committed pairs are worth keeping.
    """

    hidden: Tensor
    state: Tensor
    held: Pair


@dataclass(frozen=True)
class Eagle3Output:
    """What `Eagle3Head.forward` gives for K steps behind every pair of B texts.

    Args:
        logits: [K, B, S - 1, Vd]; row t of step k is of the token at t + 2 + k, given the true tokens before it.
        hidden: [K, B, S - 1, h]: what the logits are made of.
    """

    logits: Tensor
    hidden: Tensor


class MidLayer(DecoderLayer):
    """A decoder layer whose attention reads a token's embedding beside a state."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config, 2 * config.hidden_size)
        self.norm_before_residual = config.norm_before_residual
        self.hidden_norm = Norm(config.hidden_size, config.rms_norm_eps)

    def inputs(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, [..., 2h], and the stream beside it, [..., h]."""
        normed = self.hidden_norm(state)
        read = torch.cat([self.input_layernorm(embedded), normed], -1)
        return read, normed if self.norm_before_residual else state


class Eagle3Head(Head):
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
        """The states of committed positions, each by itself: [..., k, H] → [..., h]."""
        taps = taps.to(self.dtype)
        if self.config.fc_norm:
            taps = torch.stack([norm(tap) for norm, tap in zip(self.fc_norm, taps.unbind(-2), strict=True)], -2)
        fused: Tensor = self.fc(self.input_norm(taps.flatten(-2)))
        return fused

    def step(
        self, state: Tensor, tokens: Tensor, positions: Tensor, past: Pair | None = None, visible: Tensor | None = None
    ) -> Eagle3Step:
        """R pairs behind those that are kept.

        Args:
            state: [B, R, h].
            tokens: int64 [B, R], the tokens of the pairs.
            positions: [B, R], those of the states: the token's position less one, and one more with each step.
            past: keys and values of N pairs before, [B, N, KV heads, D].
            visible: bool [B, R, N + R], which pairs a row sees; if left out, all before it and itself.
        """
        attention = self.midlayer.self_attn
        read, stream = self.midlayer.inputs(self.embed(tokens), state)
        q, held = attention.queries(read, positions), attention.keys_values(read, positions)
        k, v = held if past is None else (torch.cat([a, b], 1) for a, b in zip(past, held, strict=True))
        if visible is None:
            visible = _causal(q.shape[1], k.shape[1], q.device).expand(len(q), -1, -1)
        return self._finished(stream, attend(q, k, v, visible), held)

    def forward(self, taps: Tensor, tokens: Tensor, steps: int) -> Eagle3Output:
        """The training-time test: from every pair K steps of a draft, fed with the head's own states and the true
        tokens.

        Args:
            taps: [B, S, k, H], the target's hidden states at the k tapped boundaries.
            tokens: int64 [B, S], the texts. Rows whose tokens lie behind the end mean nothing.
            steps: K ≥ 1.
        """
        hidden = self.unrolled(taps, tokens, steps)
        return Eagle3Output(self.vocabulary_logits(hidden), hidden)

    def unrolled(self, taps: Tensor, tokens: Tensor, steps: int) -> Tensor:
        """The hidden states of `forward`, [K, B, S - 1, h], without the logits, which are larger by far."""
        state, count = self.fuse(taps[:, :-1]), tokens.shape[1] - 1
        attention, kept, found = self.midlayer.self_attn, list[Pair](), list[Tensor]()
        places = torch.arange(count, device=tokens.device)
        for step in range(steps):
            shifted = tokens[:, (places + 1 + step).clamp(max=count)]
            read, stream = self.midlayer.inputs(self.embed(shifted), state)
            q = attention.queries(read, places + step)
            kept.append(attention.keys_values(read, places + step))
            done = self._finished(stream, _attend_unrolled(q, kept), kept[-1])
            state = done.state
            found.append(done.hidden)
        return torch.stack(found)

    def _finished(self, stream: Tensor, attended: Tensor, held: Pair) -> Eagle3Step:
        stream = self.midlayer.after_attention(stream, attended)
        hidden = self.norm(stream)
        return Eagle3Step(hidden, hidden if self.config.norm_output else stream, held)

    @torch.no_grad()
    def start_from(self, target: LlamaWeights) -> None:
        """First weights: the target's last layer, whose attention does not look at the embedding, and final norm; fc
        that picks the last tap. If that is the boundary before the layer, the head gives the target's own logits.

        Raises:
            ConfigError: if the target's layers are of another shape.
        """
        check_alike(self.config, target)
        layer, width = target.layers[-1], self.config.hidden_size
        self.midlayer.copy(layer, [torch.cat([torch.zeros_like(weight), weight], 1) for weight in layer.qkv])
        self.midlayer.hidden_norm.weight.copy_(layer.norms[0])
        self.norm.weight.copy_(target.final_norm)
        self.fc.weight.zero_()[:, -width:].fill_diagonal_(1.0)


def _causal(rows: int, keys: int, device: torch.device) -> Tensor:
    """bool [1, R, N + R]: all keys before the rows, and of theirs those up to the row."""
    row = torch.arange(keys - rows, keys, device=device)
    return (torch.arange(keys, device=device) <= row[:, None])[None]


def _attend_unrolled(q: Tensor, kept: list[Pair]) -> Tensor:
    """Row t of the last step over the first step's rows up to t, and over row t of every later step: a causal block and
    then diagonals. q [B, R, heads, D] → the same."""
    group = q.shape[-2] // kept[0][0].shape[-2]
    (k, v), *later = [tuple(x.repeat_interleave(group, -2) for x in pair) for pair in kept]
    scale = q.shape[-1] ** -0.5
    block = torch.einsum("bihd,bjhd->bihj", q, k) * scale
    seen = _causal(q.shape[1], q.shape[1], q.device)[:, :, None]
    own = torch.stack([(q * key).sum(-1) * scale for key, _ in later], -1) if later else block[..., :0]
    scores = torch.cat([block.masked_fill(~seen, float("-inf")), own], -1)
    chances = scores.to(wide(scores.dtype)).softmax(-1).to(q.dtype)
    out = torch.einsum("bihj,bjhd->bihd", chances[..., : k.shape[1]], v)
    for number, (_, value) in enumerate(later):
        out = out + chances[..., k.shape[1] + number, None] * value
    return out
