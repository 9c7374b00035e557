"""EAGLE-3 heads as its authors and SpecForge have them: midlayer.*, fc, norm, lm_head, d2t (offsets) and t2d.

Tapped layers are boundaries, by default 2, L // 2 and L - 3 of L; a list in the settings replaces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from specdec.heads.base import Head
from specdec.heads.config import HeadConfig, TargetSizes
from specdec.heads.formats.base import (
    WEIGHTS,
    Given,
    Numbering,
    Parts,
    Unreadable,
    boundaries,
    ids_of,
    llama_fields,
    llama_settings,
    maps_of,
    says,
    sized,
    taken,
    weights_of,
)
from specdec.heads.formats.block import attention_fields

NAMES = {"eagle3": "LlamaForCausalLM", "specforge": "LlamaForCausalLMEagle3"}
"""Name of the layout → what its config.json says under `architectures`."""
FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
LISTED = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True)
class Eagle3Format:
    """One of the two: they differ in their name of the architecture."""

    name: str
    weights: str = WEIGHTS

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return says(settings, NAMES[self.name]) and "draft_vocab_size" in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`."""
        settings, tensors = given.settings, given.tensors
        nested = {**settings, **(settings.get("eagle_config") or {})}
        fields = llama_fields(settings) | eagle3_fields(
            nested, tensors, sized(given.target, self.name), given.numbering
        )
        return eagle3_parts(fields, settings, tensors)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`. What the head shares is left out, as its authors do."""
        config = head.config
        if config.architecture != "eagle3":
            raise Unreadable(f"{self.name} holds EAGLE-3 heads, and this is a head of {config.architecture!r}")
        settings = llama_settings(config, "llama") | eagle3_settings(config) | {"architectures": [NAMES[self.name]]}
        return settings, weights_of(head) | maps_of(head)


def eagle3_fields(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], target: TargetSizes, numbering: Numbering | None
) -> dict[str, Any]:
    """What makes an EAGLE-3 head."""
    layers = target.num_layers
    listed = settings.get(LISTED) or (2, layers // 2, layers - 3)
    return {
        "target_hidden_size": settings.get("target_hidden_size") or settings["hidden_size"],
        "target_layers": layers,
        "taps": boundaries(listed, layers, "boundary", numbering),
        "fc_bias": "fc.bias" in tensors,
        **{flag: bool(settings.get(flag, False)) for flag in FLAGS},
        **attention_fields(settings, tensors),
    }


def eagle3_parts(fields: dict[str, Any], settings: Mapping[str, Any], tensors: dict[str, Tensor]) -> Parts:
    """The head of these fields. Output rows that are tied to the file's own embedding are taken from there."""
    ids = ids_of(tensors, fields["vocab_size"])
    known = fields["vocab_size"] if ids is None else len(ids)
    if settings.get("draft_vocab_size") not in (None, known):
        raise Unreadable(f"draft_vocab_size is {settings['draft_vocab_size']}, and its maps know {known} tokens")
    weights = {_our_name(name): tensor for name, tensor in taken(tensors).items()}
    embedding = weights.get("embed_tokens.weight")
    if settings.get("tie_word_embeddings") and embedding is not None and "lm_head.weight" not in weights:
        weights["lm_head.weight"] = embedding if ids is None else embedding[ids]
    owned: dict[str, Any] = {"own_embedding": embedding is not None, "own_output": "lm_head.weight" in weights}
    return Parts(HeadConfig("eagle3", draft_vocab_size=known, **owned, **fields), weights, ids)


def eagle3_settings(config: HeadConfig) -> dict[str, Any]:
    """What `eagle3_fields` reads."""
    flags = {flag: getattr(config, flag) for flag in FLAGS}
    return {
        **flags,
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.target_hidden_size,
        "attention_bias": config.qkv_bias,
        LISTED: list(config.taps),
    }


def _our_name(name: str) -> str:
    """Of vLLM's and older files, too."""
    for number, old in enumerate(("aux_norm_low.", "aux_norm_mid.", "aux_norm_high.")):
        if name.startswith(old):
            return f"fc_norm.{number}.{name.removeprefix(old)}"
    return "midlayer." + name.removeprefix("layers.0.") if name.startswith("layers.0.") else name
