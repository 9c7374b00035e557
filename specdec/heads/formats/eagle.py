"""EAGLE-1 and -2 heads as their authors have them: embed_tokens, fc and layers.0.*, without a norm before attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from specdec.heads.base import Head
from specdec.heads.config import HeadConfig, TargetSizes
from specdec.heads.formats.base import (
    WEIGHTS,
    Given,
    Parts,
    Unreadable,
    llama_fields,
    llama_settings,
    own_rows,
    says,
    sized,
    taken,
    weights_of,
)
from specdec.heads.formats.block import attention_fields


class EagleFormat:
    """See the module."""

    name, weights = "eagle", WEIGHTS

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return says(settings, "LlamaForCausalLM") and "draft_vocab_size" not in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`. It reads the last state, whatever is asked of taps."""
        settings, tensors = given.settings, given.tensors
        if "fc.weight" not in tensors:
            raise Unreadable("it has no fc.weight: this is a whole model, or no head")
        fields, weights = llama_fields(settings) | attention_fields(settings, tensors), taken(tensors)
        return Parts(last_state_config("eagle1", fields, weights, sized(given.target, self.name)), weights)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`."""
        config = head.config
        if config.architecture != "eagle1" or config.draft_vocab_size < config.vocab_size:
            raise Unreadable("eagle holds EAGLE-1 heads that know every token")
        own = {"architectures": ["LlamaForCausalLM"], "bias": config.fc_bias, "qkv_bias": config.qkv_bias}
        tensors = weights_of(head)
        if not config.own_embedding:
            tensors["embed_tokens.weight"] = own_rows(head)["embed_tokens.weight"]
        return llama_settings(config, "llama") | own, tensors


def last_state_config(
    architecture: str, fields: Mapping[str, Any], weights: Mapping[str, Tensor], target: TargetSizes
) -> HeadConfig:
    """Of a head that reads the target's last state alone and knows all its tokens."""
    return HeadConfig(
        architecture,
        target_hidden_size=fields["hidden_size"],
        draft_vocab_size=fields["vocab_size"],
        target_layers=target.num_layers,
        taps=(target.num_layers,),
        fc_bias="fc.bias" in weights,
        own_embedding="embed_tokens.weight" in weights,
        own_output="lm_head.weight" in weights,
        **fields,
    )
