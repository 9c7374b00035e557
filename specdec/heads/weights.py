"""A head's weights as those of a small Llama: what the kernels that run Llamas take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from specdec.heads.base import Head, output_rows
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import confidence_row
from specdec.heads.eagle1 import Eagle1Head
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.layers import DecoderLayer, Norm
from specdec.heads.mtp import MtpHead
from specdec.heads.pairs import PairHead
from specdec.models.base import CausalLM
from specdec.models.llama import LlamaLayer, LlamaWeights, own_float
from specdec.models.pairs import PairInput


class OpenTarget(CausalLM, Protocol):
    """A target whose embedding can be shared."""

    @property
    def embedding(self) -> Tensor:
        """[vocab, hidden], dense."""


def block_weights(head: BlockHead, target: OpenTarget) -> LlamaWeights:
    """A causal block head. The confidence head reads what the logits are made of: it is one more of them, the last one.

    Args:
        head: on the target's device.
        target: lends its embedding and its output rows, where the head has none of its own.
    """
    rows, sure = output_rows(head, target), confidence_row(head)
    if sure is not None:
        rows = torch.cat([rows, sure[0]])
    layers = [_layer(each, own_float(each.input_layernorm.weight)) for each in head.decoder]
    return _weights(head, target, layers, own_float(head.norm.weight), rows)


def pair_weights(head: PairHead, target: OpenTarget) -> tuple[LlamaWeights, PairInput]:
    """A head that drafts token by token, and what it reads; see `block_weights`.

    Raises:
        NotImplementedError: for an architecture that is not known here.
    """
    pairs, input_norm, final_norm = _pair_input(head)
    layers = [_layer(head.layer, input_norm)]
    return _weights(head, target, layers, final_norm, output_rows(head, target)), pairs


def norm_weights(norms: Iterable[nn.Module]) -> list[Tensor]:
    """Weights, float32, of those that are norms."""
    return [own_float(norm.weight) for norm in norms if isinstance(norm, Norm)]


def norm_weight(norm: nn.Module) -> Tensor | None:
    """Its weight, float32; None if it is no norm."""
    return own_float(norm.weight) if isinstance(norm, Norm) else None


def _pair_input(head: PairHead) -> tuple[PairInput, Tensor, Tensor]:
    """What a head reads, and its layer's first and its last norm, float32 [h] both."""
    ones = torch.ones(head.config.hidden_size, device=head.draft_ids.device)
    if isinstance(head, Eagle3Head):
        layer, normed = head.midlayer, head.config.norm_before_residual
        norms = own_float(layer.input_layernorm.weight), own_float(layer.hidden_norm.weight)
        pairs = PairInput(*norms, starts_normed=normed, gives_normed=head.config.norm_output)
        return pairs, ones, own_float(head.norm.weight)
    if isinstance(head, MtpHead):
        whole = head.layer
        norms = own_float(whole.token_layernorm.weight), own_float(whole.hidden_layernorm.weight)
        pairs = PairInput(*norms, mix=whole.input_proj.weight.detach(), gives_normed=True)
        return pairs, own_float(whole.input_layernorm.weight), own_float(whole.final_layernorm.weight)
    if isinstance(head, Eagle1Head):
        bias = None if head.fc.bias is None else head.fc.bias.detach()
        return PairInput(None, None, head.fc.weight.detach(), bias, bare=True), ones, ones
    raise NotImplementedError(f"No kernels run heads of the kind {head.config.architecture!r}.")


def _weights(
    head: Head, target: OpenTarget, layers: list[LlamaLayer], final_norm: Tensor, rows: Tensor
) -> LlamaWeights:
    """A head as a Llama: its own layers and output rows, and its embedding or the target's."""
    config = head.config
    frequencies, factor = config.rotary
    embedding = head.embed_tokens.weight.detach() if config.own_embedding else target.embedding
    return LlamaWeights(
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_size=config.head_dim,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=len(rows),
        max_context=target.max_context,
        eps=config.rms_norm_eps,
        scale=config.head_dim**-0.5,
        frequencies=own_float(frequencies).to(embedding.device),
        rope_factor=factor,
        layers=layers,
        embedding=embedding,
        final_norm=final_norm,
        head=rows,
    )


def _layer(layer: DecoderLayer, input_norm: Tensor) -> LlamaLayer:
    """A head's layer as one of a Llama; `input_norm`: float32 [h], before its attention."""
    attention, feed = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LlamaLayer(
        qkv=[each.weight.detach() for each in projections],
        qkv_bias=[None if each.bias is None else each.bias.detach() for each in projections],
        o=attention.o_proj.weight.detach(),
        gate=feed.gate_proj.weight.detach(),
        up=feed.up_proj.weight.detach(),
        down=feed.down_proj.weight.detach(),
        norms=(
            input_norm,
            own_float(layer.post_attention_layernorm.weight),
            norm_weight(attention.q_norm),
            norm_weight(attention.k_norm),
        ),
        window=0,
    )
