"""Heads that draft token by token and are fed with their own output: EAGLE-1, EAGLE-3, MTP layers.

A *pair* is a state g_t and the token that was drawn from it, x_{t+1}, at rotary position t; from it the head predicts
x_{t+2}. States of committed positions come from the target's hidden states; those of a draft are the head's own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.heads.base import ChainHead
from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer, Pair, attend, wide


@dataclass(frozen=True)
class PairStep:
    """What a step gives for its R rows.

    Args:
        hidden: [B, R, h]: what logits are made of.
        state: [B, R, h], the state that the next step of the draft takes in place of the target's.
        held: keys and values of the rows, [B, R, KV heads, D]; those of committed pairs are worth keeping.
    """

    hidden: Tensor
    state: Tensor
    held: Pair


@dataclass(frozen=True)
class PairOutput:
    """What `PairHead.forward` gives for K steps behind every pair of B texts.

    Args:
        logits: [K, B, S - 1, Vd]; row t of step k is of the token at t + 2 + k, given the true tokens before it.
        hidden: [K, B, S - 1, h]: what the logits are made of.
    """

    logits: Tensor
    hidden: Tensor


class PairHead(ChainHead):
    """What such heads have in common; an architecture says what its one layer reads and what comes of it."""

    @property
    @abstractmethod
    def layer(self) -> DecoderLayer:
        """The decoder layer."""

    @abstractmethod
    def fuse(self, taps: Tensor) -> Tensor:
        """The states of committed positions, each by itself: [..., k, H] → [..., h]."""

    @abstractmethod
    def inputs(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Of pairs, [..., h] both, what attention reads, [..., width], and the stream beside it, [..., h]."""

    @abstractmethod
    def outputs(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Of the stream behind the layer, [..., h], what logits are made of and the next step's state, [..., h]."""

    def step(
        self, state: Tensor, tokens: Tensor, positions: Tensor, past: Pair | None = None, visible: Tensor | None = None
    ) -> PairStep:
        """R pairs behind those that are kept.

        Args:
            state: [B, R, h].
            tokens: int64 [B, R], the tokens of the pairs.
            positions: [B, R], those of the states: the token's position less one, and one more with each step.
            past: keys and values of N pairs before, [B, N, KV heads, D].
            visible: bool [B, R, N + R], which pairs a row sees; if left out, all before it and itself.
        """
        attention = self.layer.self_attn
        read, stream = self.inputs(self.embed(tokens), state)
        q, held = attention.queries(read, positions), attention.keys_values(read, positions)
        k, v = held if past is None else (torch.cat([a, b], 1) for a, b in zip(past, held, strict=True))
        if visible is None:
            visible = _causal(q.shape[1], k.shape[1], q.device).expand(len(q), -1, -1)
        return self._finished(stream, attend(q, k, v, visible), held)

    def forward(self, taps: Tensor, tokens: Tensor, steps: int) -> PairOutput:
        """The training-time test: from every pair K steps of a draft, fed with the head's own states and the true
        tokens.

        Args:
            taps: [B, S, k, H], the target's hidden states at the k tapped boundaries.
            tokens: int64 [B, S], the texts. Rows whose tokens lie behind the end mean nothing.
            steps: K ≥ 1.
        """
        hidden = self.unrolled(taps, tokens, steps)
        return PairOutput(self.vocabulary_logits(hidden), hidden)

    def draft_states(self, taps: Tensor, tokens: Tensor, anchors: Tensor, mask: Tensor, depth: int) -> Tensor:
        """See `ChainHead.draft_states`: row k is the k-th step behind the anchor's pair."""
        unrolled = self.unrolled(taps, tokens, depth)
        pairs = torch.where(mask, anchors - 1, 0)[None, :, :, None].expand(depth, -1, -1, unrolled.shape[-1])
        return unrolled.gather(2, pairs).permute(1, 2, 0, 3)

    def unrolled(self, taps: Tensor, tokens: Tensor, steps: int) -> Tensor:
        """The hidden states of `forward`, [K, B, S - 1, h], without the logits, which are larger by far."""
        state, count = self.fuse(taps[:, :-1]), tokens.shape[1] - 1
        attention, kept, found = self.layer.self_attn, list[Pair](), list[Tensor]()
        places = torch.arange(count, device=tokens.device)
        for step in range(steps):
            shifted = tokens[:, (places + 1 + step).clamp(max=count)]
            read, stream = self.inputs(self.embed(shifted), state)
            q = attention.queries(read, places + step)
            kept.append(attention.keys_values(read, places + step))
            done = self._finished(stream, _attend_unrolled(q, kept), kept[-1])
            state = done.state
            found.append(done.hidden)
        return torch.stack(found)

    def _finished(self, stream: Tensor, attended: Tensor, held: Pair) -> PairStep:
        return PairStep(*self.outputs(self.layer.after_attention(stream, attended)), held)


def check_last_state(config: HeadConfig) -> None:
    """Raises ConfigError unless the head has one layer and reads the target's last state, and is as wide."""
    alike = config.hidden_size == config.target_hidden_size
    if config.num_layers != 1 or config.taps != (config.target_layers,) or not alike:
        raise ConfigError(
            f"A head of the kind {config.architecture!r} has one layer, reads the last state and is as wide; got "
            f"{config.num_layers} layers, taps={config.taps} of {config.target_layers} layers, and a width of "
            f"{config.hidden_size} for {config.target_hidden_size}."
        )


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
