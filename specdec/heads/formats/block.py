"""Block heads as published: DFlash and JetSpec (z-lab, SpecForge) in one layout, DSpark (DeepSpec) in another.

Tensors are named alike: fc, hidden_norm, layers.{i}.*, norm, markov_head.*, confidence_head.proj. `target_layer_ids`
are outputs of layers counted from 0, -1 being the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from specdec.checks import shown
from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.heads.formats.base import (
    WEIGHTS,
    Given,
    Parts,
    Unreadable,
    boundaries,
    ids_of,
    llama_fields,
    llama_settings,
    needed,
    own_rows,
    taken,
    weights_of,
)

OLD_NAMES = ("logit_head.markov_head.", "logit_head.confidence_head.")
"""How early files call what is `markov_head.` and `confidence_head.` now."""


@dataclass(frozen=True)
class BlockFormat:
    """One of the two layouts.

    Args:
        name: "dflash" keeps its own settings in `dflash_config`, and neither embedding nor output rows; "dspark" keeps
            them beside the others, and both.
    """

    name: str
    weights: str = WEIGHTS

    @property
    def nested(self) -> bool:
        """Whether it is the first."""
        return self.name == "dflash"

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return ("dflash_config" if self.nested else "target_layer_ids") in settings and "block_size" in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`."""
        settings, tensors = given.settings, given.tensors
        own = dict(settings["dflash_config"] or {}) if self.nested else dict(settings)
        fields = llama_fields(settings) | attention_fields(settings, tensors)
        layers = needed(settings, "num_target_layers")
        fields |= {
            "target_hidden_size": own.get("target_hidden_size") or fields["hidden_size"],
            "target_layers": layers,
            "taps": boundaries(needed(own, "target_layer_ids"), layers, "output", given.numbering),
            "causal": bool(own.get("causal_head", False)),
        }
        spark = own.get("projector_type") == "dspark" or not self.nested
        fields |= block_fields({**settings, **own}, tensors, spark, with_markov=False)
        return block_parts(fields, tensors)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`."""
        config = head.config
        check_block(config, self.name)
        if config.draft_vocab_size < config.vocab_size or (config.causal and not self.nested):
            raise Unreadable("it has no place for a draft vocabulary" + " or a causal block" * (not self.nested))
        tensors = weights_of(head)
        own = block_settings(config) | {"target_layer_ids": [tap - 1 for tap in config.taps]}
        own["target_hidden_size"] = config.target_hidden_size
        settings = llama_settings(config, "qwen3") | {"num_target_layers": config.target_layers}
        settings |= {"attention_bias": config.qkv_bias, "layer_types": ["full_attention"] * config.num_layers}
        if not self.nested:
            return settings | own | {"architectures": ["Qwen3DSparkModel"]}, tensors | own_rows(head)
        spark = {"projector_type": "dspark"} if config.markov_rank or config.confidence else {}
        name = "DSparkDraftModel" if spark else "DFlashDraftModel"
        size = own.pop("block_size")
        nested = own | spark | {"causal_head": config.causal}
        return settings | {"architectures": [name], "block_size": size, "dflash_config": nested}, tensors


def attention_fields(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors say of attention's norms and biases. Refuses layers that see a part of the text alone."""
    if "sliding_attention" in (settings.get("layer_types") or ()):
        raise Unreadable("some of its layers have a sliding window, which is not supported")
    return {
        "qk_norm": any(name.endswith("self_attn.q_norm.weight") for name in tensors),
        "qkv_bias": any(name.endswith("self_attn.q_proj.bias") for name in tensors),
        "o_bias": any(name.endswith("self_attn.o_proj.bias") for name in tensors),
    }


def block_fields(
    settings: Mapping[str, Any], tensors: dict[str, Tensor], spark: bool, with_markov: bool
) -> dict[str, Any]:
    """What makes a block head.

    Args:
        settings: where they are listed.
        tensors: what is there besides.
        spark: whether it is a DSpark head, whose anchor predicts unless the settings say no.
        with_markov: whether the confidence head reads the Markov term if the settings do not say.
    """
    kind, rank = settings.get("markov_head_type", "vanilla"), settings.get("markov_rank") or 0
    if rank and kind != "vanilla":
        raise Unreadable(f"its Markov term is of the kind {shown(kind)}, and 'vanilla' is known")
    return {
        "block_size": needed(settings, "block_size"),
        "anchor_predicts": bool(settings.get("sample_from_anchor", spark)),
        "mask_token_id": needed(settings, "mask_token_id"),
        "markov_rank": rank,
        "confidence": bool(settings.get("enable_confidence_head", "confidence_head.proj.weight" in tensors)),
        "confidence_with_markov": bool(rank and settings.get("confidence_head_with_markov", with_markov)),
        "own_embedding": "embed_tokens.weight" in tensors,
        "own_output": "lm_head.weight" in tensors,
    }


def block_parts(fields: dict[str, Any], tensors: dict[str, Tensor]) -> Parts:
    """The head of these fields; the Markov term's W1 has a row for every token of the target."""
    ids = ids_of(tensors, fields["vocab_size"])
    known = fields["vocab_size"] if ids is None else len(ids)
    all_rows = bool(fields["markov_rank"]) and known < fields["vocab_size"]
    weights = {_new_name(name): tensor for name, tensor in taken(tensors).items()}
    return Parts(HeadConfig("block", draft_vocab_size=known, markov_all=all_rows, **fields), weights, ids)


def block_settings(config: HeadConfig) -> dict[str, Any]:
    """What `block_fields` reads."""
    return {
        "block_size": config.block_size,
        "sample_from_anchor": config.anchor_predicts,
        "mask_token_id": config.mask_token_id,
        "markov_rank": config.markov_rank,
        "markov_head_type": "vanilla",
        "enable_confidence_head": config.confidence,
        "confidence_head_with_markov": bool(config.markov_rank and config.confidence_with_markov),
    }


def check_block(config: HeadConfig, name: str) -> None:
    """Raises Unreadable unless it is a block head with just the norms that the published ones have."""
    if config.architecture != "block" or config.fc_norm or not config.qk_norm:
        raise Unreadable(
            f"{name} holds block heads with qk_norm and without fc_norm, and this is a head of "
            f"{config.architecture!r} with qk_norm={config.qk_norm}, fc_norm={config.fc_norm}"
        )


def _new_name(name: str) -> str:
    return name.removeprefix("logit_head.") if name.startswith(OLD_NAMES) else name
