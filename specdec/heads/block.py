"""Heads that draft a block of tokens in one pass: DFlash (arXiv 2602.06036), DSpark (2607.05147), JetSpec (2606.18394).

A block is the last committed token, the anchor, and γ - 1 masks. Its rows see each other and the *context*: one vector
for each committed position before the anchor, made from the target's hidden states there, of which every layer takes
keys and values. So the context is cached, as keys and values, and a block costs one pass of γ rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from specdec.errors import ConfigError
from specdec.heads.base import ChainHead, predecessors
from specdec.heads.config import HeadConfig
from specdec.heads.layers import DecoderLayer, Norm, Pair, attend, check_alike
from specdec.models.llama import LlamaWeights

TOGETHER = 32
"""Anchors whose blocks are one attention call. All of a call's block keys are compared with all its rows, though each
row sees its own block's alone: more anchors a call waste more, fewer make more calls."""


@dataclass(frozen=True)
class BlockOutput:
    """What `BlockHead.forward` gives for A anchors of B texts; n = `HeadConfig.num_drafted`.

    Args:
        logits: [B, A, n, Vd]; row k is of the token at anchor + 1 + k, given the true token before it.
        hidden: [B, A, n, h], normed: what the logits are made of.
        confidence: [B, A, n], the chance that token k is accepted if those before it are; None without such a head.
    """

    logits: Tensor
    hidden: Tensor
    confidence: Tensor | None


class MarkovHead(nn.Module):
    """W2 W1[previous token]: what a token says of the next one (DSpark, "vanilla").

    W1 has a row for each token of the target, or for each of the draft vocabulary and one for all others.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        known, all_ = config.draft_vocab_size, config.vocab_size
        self.markov_w1 = nn.Embedding(all_ if config.markov_all or known == all_ else known + 1, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.draft_vocab_size, bias=False)


class ConfidenceHead(nn.Module):
    """wᵀ[h; W1[previous token]] + b, or without the second part."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank * config.confidence_with_markov, 1)


class BlockHead(ChainHead):
    """A block head; see the module. Parameters are named as in DFlash's and DSpark's files."""

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        super().__init__(config, draft_ids)
        if config.num_layers < 1 or config.num_drafted < 1:
            raise ConfigError(
                f"A block head of {config.num_layers} layers and {config.block_size} rows drafts nothing. Give at "
                "least 1 layer, and 2 rows if the anchor's row predicts nothing."
            )
        width, eps = config.target_hidden_size, config.rms_norm_eps
        self.fc_norm = nn.ModuleList([Norm(width, eps) for _ in config.taps] if config.fc_norm else [])
        self.fc = nn.Linear(len(config.taps) * width, config.hidden_size, bias=False)
        self.hidden_norm = Norm(config.hidden_size, eps)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_layers)])
        self.norm = Norm(config.hidden_size, eps)
        self.markov_head = MarkovHead(config) if config.markov_rank else None
        self.confidence_head = ConfidenceHead(config) if config.confidence else None

    def forward(self, taps: Tensor, tokens: Tensor, anchors: Tensor, mask: Tensor) -> BlockOutput:
        """Blocks behind many anchors at once, blind to each other, for training.

        Args:
            taps: [B, S, k, H], the target's hidden states at the k tapped boundaries.
            tokens: int64 [B, S], the texts.
            anchors: int64 [B, A], positions of last committed tokens. A block sees the context before its anchor.
            mask: bool [B, A]; where it is False there is no anchor, and what is given for it means nothing.
        """
        depth = self.config.num_drafted
        hidden = self.draft_states(taps, tokens, anchors, mask, depth)
        previous = predecessors(tokens, anchors, mask, depth)
        logits, confidence = self.logits(hidden, previous), self.confidence_logits(hidden, previous)
        return BlockOutput(logits, hidden, None if confidence is None else confidence.sigmoid())

    def draft_states(self, taps: Tensor, tokens: Tensor, anchors: Tensor, mask: Tensor, depth: int) -> Tensor:
        """See `ChainHead.draft_states`: whole blocks, of which the first rows are given."""
        anchors, size = torch.where(mask, anchors, 0), self.config.block_size
        context = self.context_keys_values(self.context(taps), torch.arange(taps.shape[1], device=taps.device))
        rows = self.rows(tokens.gather(1, anchors))
        positions = anchors[..., None] + torch.arange(size, device=anchors.device)
        visible = [_visible(part, taps.shape[1], self.config) for part in _parts(anchors)]
        for layer, held in zip(self.decoder, context, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(rows)
            q, (k, v) = attention.queries(normed, positions), attention.keys_values(normed, positions)
            parts = zip(_parts(q), _parts(k), _parts(v), visible, strict=True)
            attended = [_attend_blocks(*part, held) for part in parts]
            rows = layer.after_attention(rows, torch.cat(attended, 1))
        return self.drafting(rows)[:, :, :depth]

    @property
    def decoder(self) -> list[DecoderLayer]:
        """Its layers, from the first to the last."""
        return cast("list[DecoderLayer]", list(self.layers))

    def context(self, taps: Tensor) -> Tensor:
        """c = hidden_norm(fc(taps)): [B, S, k, H] → [B, S, h], each position by itself."""
        taps = taps.to(self.dtype)
        if self.config.fc_norm:
            taps = torch.stack([norm(tap) for norm, tap in zip(self.fc_norm, taps.unbind(-2), strict=True)], -2)
        context: Tensor = self.hidden_norm(self.fc(taps.flatten(-2)))
        return context

    def context_keys_values(self, context: Tensor, positions: Tensor) -> list[Pair]:
        """Of every layer the context's keys and values, [B, S, KV heads, D]: all that a block sees of it."""
        return [layer.self_attn.keys_values(context, positions) for layer in self.decoder]

    def rows(self, anchors: Tensor) -> Tensor:
        """What goes into a block: token ids [...] of anchors → embeddings [..., γ, h] of them and of the masks."""
        masks = torch.full((*anchors.shape, self.config.block_size - 1), self.config.mask_token_id)
        return self.embed(torch.cat([anchors[..., None], masks.to(anchors.device)], -1))

    def drafting(self, rows: Tensor) -> Tensor:
        """Of a block's stream behind the last layer, [..., γ, h], the normed rows that draft, [..., n, h]."""
        normed: Tensor = self.norm(rows[..., self.config.block_size - self.config.num_drafted :, :])
        return normed

    def logits(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """See `ChainHead.logits`."""
        logits = self.vocabulary_logits(hidden)
        if self.markov_head is None:
            return logits
        term: Tensor = self.markov_head.markov_w2(self._before(previous))
        return logits + term

    def confidence_logits(self, hidden: Tensor, previous: Tensor) -> Tensor | None:
        """See `ChainHead.confidence_logits`."""
        if self.confidence_head is None:
            return None
        if self.config.markov_rank and self.config.confidence_with_markov:
            hidden = torch.cat([hidden, self._before(previous).to(hidden.dtype)], -1)
        confidence: Tensor = self.confidence_head.proj(hidden)[..., 0]
        return confidence

    def _before(self, previous: Tensor) -> Tensor:
        """W1[previous token], [..., r]."""
        assert self.markov_head is not None
        before: Tensor = self.markov_head.markov_w1(self.markov_rows(previous))
        return before

    def markov_rows(self, tokens: Tensor) -> Tensor:
        """Rows of W1 of the target's tokens, int64 [...]."""
        return tokens if self.config.markov_all else self.draft_index[tokens]

    @torch.no_grad()
    def start_from(self, target: LlamaWeights, seed: int = 0) -> None:
        """First weights: the target's last layers and final norm; fc that picks the last tap; of
        the Markov term, W1 random and W2 = 0; a confidence of a half.
        """
        check_alike(self.config, target)
        copied = target.layers[-self.config.num_layers :]
        for mine, its in zip(self.decoder, copied, strict=True):
            mine.copy(its)
        self.norm.weight.copy_(target.final_norm)
        self.hidden_norm.weight.copy_(copied[0].norms[0])
        self.fc.weight.zero_()[:, -self.config.target_hidden_size :].fill_diagonal_(1.0)
        if self.markov_head is not None:
            w1 = self.markov_head.markov_w1.weight
            w1.copy_(torch.randn(w1.shape, generator=torch.Generator().manual_seed(seed)))
            self.markov_head.markov_w2.weight.zero_()
        if self.confidence_head is not None:
            self.confidence_head.proj.weight.zero_()
            self.confidence_head.proj.bias.zero_()


def _parts(anchors: Tensor) -> Sequence[Tensor]:
    """Of [B, A, …] the anchors that are attended together."""
    return torch.split(anchors, TOGETHER, 1)


def _visible(anchors: Tensor, length: int, config: HeadConfig) -> Tensor:
    """bool [B, A · γ, S + A · γ]: of the context what lies before the anchor, and of the block rows one's own block,
    or its part up to the row."""
    batch, count, size = *anchors.shape, config.block_size
    before = torch.arange(length, device=anchors.device) < anchors[..., None]
    row = torch.arange(count * size, device=anchors.device)
    own = row[:, None] // size == row // size
    if config.causal:
        own = own & (row <= row[:, None])
    return torch.cat([before.repeat_interleave(size, 1), own.expand(batch, -1, -1)], -1)


def _attend_blocks(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, context: Pair) -> Tensor:
    """Rows of blocks, [B, A, γ, heads, D], over the context and over all blocks' rows → the same shape."""
    keys, values = (torch.cat([held, own.flatten(1, 2)], 1) for held, own in zip(context, (k, v), strict=True))
    return attend(q.flatten(1, 2), keys, values, visible).view(q.shape)
