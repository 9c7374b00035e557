"""Our own layout: config.json with every field of `HeadConfig`, and the module's parameters under their own names.

For block heads these are the names of DSpark's files. Matrices may be int8 with one scale a row (`<name>_scale`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.heads.formats.base import WEIGHTS, Given, Parts, Unreadable, needed, weights_of

VERSION = 1
SCALE = "_scale"


class OwnFormat:
    """See the module."""

    name, weights = "specdec", WEIGHTS

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """See `Format.owns`."""
        return "specdec_head" in settings

    def read(self, given: Given) -> Parts:
        """See `Format.read`. Taps are boundaries, whatever is asked."""
        settings, tensors = given.settings, given.tensors
        if settings["specdec_head"] != VERSION:
            raise Unreadable(f"it is of version {settings['specdec_head']!r}, and {VERSION} is known")
        try:
            config = HeadConfig.from_json(needed(settings, "head"))
        except ConfigError as error:
            raise Unreadable(f"its settings cannot work. {error}") from error
        note = {str(key): str(value) for key, value in dict(settings.get("note") or {}).items()}
        quantized = "int8" if any(tensor.dtype == torch.int8 for tensor in tensors.values()) else None
        return Parts(config, unpacked(tensors), tensors.pop("draft_ids", None), note, quantized)

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Format.write`."""
        tensors = weights_of(head)
        if head.config.draft_vocab_size < head.config.vocab_size:
            tensors["draft_ids"] = head.draft_ids.to(torch.int32)
        return {"specdec_head": VERSION, "head": head.config.to_json()}, tensors


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of floats as int8 with a scale for each row, float32 [rows]; w ≈ int8 · scale, off by half a scale."""
    found: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        if weight.dim() == 2 and len(weight) > 1 and weight.is_floating_point():
            scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            found[name] = (weight.float() / scale[:, None]).round().to(torch.int8)
            found[name + SCALE] = scale
        else:
            found[name] = weight
    return found


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` made, as float32; the draft vocabulary is left out."""
    found: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        if name == "draft_ids" or (name.endswith(SCALE) and name.removesuffix(SCALE) in tensors):
            continue
        scale = tensors.get(name + SCALE)
        if weight.dtype != torch.int8:
            found[name] = weight
        elif scale is None or scale.shape != weight.shape[:1]:
            raise Unreadable(f"{name} is int8 and {name}{SCALE} is not one scale for each of its {len(weight)} rows")
        else:
            found[name] = weight.float() * scale.float()[:, None]
    return found
