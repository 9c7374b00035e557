"""The head that a run begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from specdec.heads.base import ChainHead
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.layers import DecoderLayer
from specdec.heads.medusa import MedusaHead
from specdec.models.llama import LlamaWeights
from specdec.models.sources import Files
from specdec.training.settings import Settings
from specdec.training.vocabulary import DraftVocabulary


def new_head(settings: Settings, files: Files, weights: LlamaWeights, vocabulary: DraftVocabulary) -> ChainHead:
    """A head of the target's sizes with its first weights, not yet bound.

    Args:
        settings: of the run.
        files, weights: of the target.
        vocabulary: what it knows.

    Raises:
        ConfigError: if its options cannot work together, or the target's layers cannot be copied.
    """
    options, layers = settings.head, len(weights.layers)
    kinds: dict[str, tuple[type[BlockHead] | type[Eagle3Head] | type[MedusaHead], dict[str, Any]]] = {
        "eagle3": (Eagle3Head, {"norm_output": True}),  # 3.1: a step's state is normed
        "block": (BlockHead, _of_blocks(settings, files, weights.vocab_size)),
        "medusa": (MedusaHead, {"medusa_heads": options.block_size, "fc_norm": False, "fc_bias": True}),
    }
    kind, more = kinds[options.architecture]
    config = HeadConfig.like(
        files.module.config,
        options.architecture,
        num_layers=options.num_layers,
        block_size=options.block_size,
        taps=options.taps or ((layers,) if kind is MedusaHead else spread(layers)),
        draft_vocab_size=options.draft_vocab_size,
        **({"fc_norm": options.fc_norm} | more),
    )
    torch.manual_seed(settings.seed)
    head = kind(config, vocabulary.ids)
    head.start_from(weights, settings.seed)
    if options.start == "random" and kind is not MedusaHead:
        scatter(head, settings.seed)
    return head


def spread(layers: int) -> tuple[int, ...]:
    """Boundaries near the first layer, in the middle, and near the last (EAGLE-3's choice)."""
    return tuple(sorted({min(2, layers), layers // 2, max(layers - 3, 1)}))


@torch.no_grad()
def scatter(head: nn.Module, seed: int) -> None:
    """Draws the matrices of a head's layers, and the one that joins its taps: normal, of variance 1 / columns. Norms
    stay the target's, so that logits have its scale."""
    generator = torch.Generator().manual_seed(seed)
    for module in head.modules():
        for weight in [*module.parameters()] if isinstance(module, DecoderLayer) else []:
            if weight.dim() == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5)
    joined = head.get_parameter("fc.weight")
    joined.copy_(torch.randn(joined.shape, generator=generator) * joined.shape[1] ** -0.5)


def _of_blocks(settings: Settings, files: Files, vocab_size: int) -> dict[str, Any]:
    options = settings.head
    special = [token for token in files.tokenizer.all_special_ids if token < vocab_size]
    mask = max(special, default=0) if options.mask_token_id is None else options.mask_token_id
    return {
        "markov_rank": options.markov_rank,
        "confidence": settings.loss.confidence > 0,
        "causal": options.causal,
        "mask_token_id": mask,
    }
