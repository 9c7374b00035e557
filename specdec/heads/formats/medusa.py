"""Medusa heads as their authors have them: "{head}.{block}.linear.weight", and output rows "{head}.{blocks}.weight"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.heads.formats.base import Given, Parts, Unreadable, sized, weights_of

LINEAR = re.compile(r"(\d+)\.(\d+)\.linear\.(weight|bias)")
OUTPUT = re.compile(r"(\d+)\.(\d+)\.weight")


class MedusaFormat:
    """See the module. How many heads there are is taken from the tensors: published settings are wrong about it."""

    name, weights = "medusa", "medusa_lm_head.safetensors"

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return "medusa_num_heads" in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`. Heads without output rows share the target's."""
        settings, tensors = given.settings, given.tensors
        sizes, layers = sized(given.target, self.name), int(settings.get("medusa_num_layers", 1))
        weights = {_our_name(name, layers): tensor for name, tensor in tensors.items()}
        heads = {int(name.split(".")[1]) for name in weights}
        if not heads or sorted(heads) != list(range(len(heads))):
            raise Unreadable(f"its heads are numbered {sorted(heads)}, not from 0 without a gap")
        config = HeadConfig(
            "medusa",
            hidden_size=sizes.hidden_size,
            target_hidden_size=sizes.hidden_size,
            intermediate_size=1,
            num_layers=layers,
            num_heads=1,
            num_kv_heads=1,
            head_dim=2,
            vocab_size=sizes.vocab_size,
            draft_vocab_size=sizes.vocab_size,
            target_layers=sizes.num_layers,
            taps=(sizes.num_layers,),
            medusa_heads=len(heads),
            fc_bias=any(name.endswith(".bias") for name in weights),
            own_output=any(name.startswith("lm_heads.") for name in weights),
        )
        said = settings["medusa_num_heads"]
        note = {"heads": f"{len(heads)}, and {said} by its config.json"} if said != len(heads) else {}
        return Parts(config, weights, None, note)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`."""
        config = head.config
        if config.architecture != "medusa" or config.draft_vocab_size < config.vocab_size:
            raise Unreadable("medusa holds Medusa heads that know every token")
        settings = {
            "medusa_num_heads": config.medusa_heads,
            "medusa_num_layers": config.num_layers,
            "base_model_name_or_path": None,
        }
        return settings, {_their_name(name, config): weight for name, weight in weights_of(head).items()}


def _our_name(name: str, layers: int) -> str:
    if found := LINEAR.fullmatch(name):
        return f"blocks.{found[1]}.layers.{found[2]}.{found[3]}"
    if (found := OUTPUT.fullmatch(name)) and int(found[2]) == layers:
        return f"lm_heads.{found[1]}.weight"
    raise Unreadable(f"the tensor {name!r} is none of a Medusa head of {layers} blocks")


def _their_name(name: str, config: HeadConfig) -> str:
    kind, head, *rest = name.split(".")
    return f"{head}.{config.num_layers}.weight" if kind == "lm_heads" else f"{head}.{rest[1]}.linear.{rest[2]}"
