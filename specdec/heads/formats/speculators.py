"""Heads of the `speculators` library: types eagle3, dflash, dspark and mtp.

Settings of the layers stand in `transformer_layer_config`, without those that are transformers' defaults. Tapped layers
are boundaries. Embedding and output rows are in the file, but for mtp; d2t holds offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import CONFIG_MAPPING

from specdec.checks import shown
from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.heads.formats.base import (
    WEIGHTS,
    Given,
    Parts,
    Unreadable,
    boundaries,
    llama_fields,
    llama_settings,
    maps_of,
    needed,
    own_rows,
    sized,
    taken,
    weights_of,
)
from specdec.heads.formats.block import attention_fields, block_fields, block_parts, block_settings, check_block
from specdec.heads.formats.eagle import last_state_config
from specdec.heads.formats.eagle3 import eagle3_fields, eagle3_parts, eagle3_settings

TYPES = ("eagle3", "dflash", "dspark", "mtp")
KINDS = {"eagle3": "eagle3", "block": "dflash", "mtp": "mtp"}
NAMES = {
    "eagle3": "Eagle3Speculator", "dflash": "DFlashSpeculator", "dspark": "DSparkSpeculator", "mtp": "MTPDraftModel",
}  # fmt: skip
LAYERS = "transformer_layer_config"
BLOCK_LISTED = "aux_hidden_state_layer_ids"
OF_TARGET = ("verifier_lm_head.weight", "verifier_norm.weight")


class SpeculatorsFormat:
    """See the module."""

    name, weights = "speculators", WEIGHTS

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return "speculators_model_type" in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`."""
        settings = given.settings
        kind = settings["speculators_model_type"]
        if kind not in TYPES:
            raise Unreadable(f"its type is {shown(kind)}, not one of {', '.join(TYPES)}")
        layers, sizes = _layer_settings(settings), sized(given.target, self.name)
        merged, tensors = {**layers, **settings}, taken(given.tensors, *OF_TARGET)
        if kind == "eagle3":
            needed(settings, "norm_before_residual")  # readers differ in what its absence means
            fields = llama_fields(layers) | eagle3_fields(merged, tensors, sizes, given.numbering)
            return eagle3_parts(fields, merged, tensors)
        if kind == "mtp":
            fields = llama_fields(layers) | attention_fields(layers, tensors) | {"num_layers": 1}
            return Parts(last_state_config("mtp", fields, tensors, sizes), tensors)
        fields = llama_fields(layers) | attention_fields(layers, tensors)
        fields |= {
            "target_hidden_size": settings.get("target_hidden_size") or fields["hidden_size"],
            "target_layers": sizes.num_layers,
            "taps": boundaries(needed(settings, BLOCK_LISTED), sizes.num_layers, "boundary", given.numbering),
        }
        return block_parts(fields | block_fields(settings, tensors, kind == "dspark", with_markov=True), tensors)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`."""
        config, tensors = head.config, {_their_name(name): weight for name, weight in weights_of(head).items()}
        kind = _kind(config)
        tensors |= {} if kind == "mtp" else _markov_of_all(head) | own_rows(head) | maps_of(head)
        layers = llama_settings(config, "qwen3" if config.qk_norm else "llama")
        layers["attention_bias"] = config.qkv_bias
        return {
            "architectures": [NAMES[kind]],
            "speculators_model_type": kind,
            "speculators_version": "0.4.0",
            LAYERS: layers,
            "speculators_config": _proposal(kind, config),
            **_own_settings(kind, config),
        }, tensors


def _layer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The layers' settings, and transformers' defaults where the file says nothing."""
    given = dict(needed(settings, LAYERS))
    kind = given.pop("model_type", "qwen3")
    if kind not in ("llama", "qwen3"):
        raise Unreadable(f"its layers are of the type {shown(kind)}, not llama or qwen3")
    with foreign(UnsupportedModelError, f"Settings of {LAYERS} are none", "Copy the file again."):
        found: dict[str, Any] = CONFIG_MAPPING[kind](**given).to_dict()
    return found


def _kind(config: HeadConfig) -> str:
    """The library's type of such a head."""
    if config.architecture not in KINDS:
        raise Unreadable(f"speculators has no heads of {config.architecture!r}")
    if config.architecture == "block":
        check_block(config, "speculators")
    if config.causal or (config.architecture == "mtp" and config.draft_vocab_size < config.vocab_size):
        raise Unreadable("speculators has no causal blocks, and no MTP layers with a draft vocabulary")
    spark = config.markov_rank or config.confidence
    return "dspark" if spark else KINDS[config.architecture]


def _own_settings(kind: str, config: HeadConfig) -> dict[str, Any]:
    """What stands beside the layers' settings."""
    if kind == "eagle3":
        return eagle3_settings(config) | {"embed_requires_grad": False}
    if kind == "mtp":
        return {"num_nextn_predict_layers": 1}
    sizes = {key: getattr(config, key) for key in ("draft_vocab_size", "target_hidden_size")}
    return block_settings(config) | {BLOCK_LISTED: list(config.taps)} | sizes


def _proposal(kind: str, config: HeadConfig) -> dict[str, Any]:
    """How the library's own engine is to draft."""
    count = 3 if kind in ("eagle3", "mtp") else config.num_drafted
    return {
        "algorithm": kind,
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": count}],
        "default_proposal_method": "greedy",
        "verifier": {"name_or_path": None, "architectures": []},
    }


def _their_name(name: str) -> str:
    return "layers.0." + name.removeprefix("midlayer.") if name.startswith("midlayer.") else name


def _markov_of_all(head: Head) -> dict[str, Tensor]:
    """W1 with a row for every token of the target."""
    if not isinstance(head, BlockHead) or head.markov_head is None or head.config.markov_all:
        return {}
    return {"markov_head.markov_w1.weight": head.markov_head.markov_w1.weight.detach()[head.draft_index]}
