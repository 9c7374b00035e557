"""What the readers and writers of all published layouts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from specdec.checks import shown
from specdec.errors import SpecdecError, UnsupportedModelError
from specdec.heads.base import Head
from specdec.heads.config import HeadConfig, TargetSizes

Numbering = Literal["boundary", "output"]
"""How a file counts the states that a head reads: boundary l is the stream before layer l (transformers'
`hidden_states[l]`), output l what layer l gives, so boundary l + 1."""


WEIGHTS = "model.safetensors"


class Unreadable(SpecdecError):
    """What is wrong with a head's files, in words that follow "path: "."""


@dataclass(frozen=True)
class Parts:
    """A head as it is read.

    Args:
        config: all that its files say of it.
        weights: by the names of the module's parameters.
        draft_ids: int64 [Vd], absolute; None for all tokens.
        note: what else the files say, for people.
        quantized: "int8" if they hold a matrix in that form.
    """

    config: HeadConfig
    weights: dict[str, Tensor]
    draft_ids: Tensor | None = None
    note: Mapping[str, str] = field(default_factory=dict)
    quantized: str | None = None


@dataclass(frozen=True)
class Given:
    """What a layout reads a head from.

    Args:
        settings, tensors: of config.json and the files beside it, as they have them; the tensors may be taken out.
        target: sizes of the model that it is for, where the files do not tell.
        numbering: how taps are counted, if not in the layout's own way.
    """

    settings: Mapping[str, Any]
    tensors: dict[str, Tensor]
    target: TargetSizes | None = None
    numbering: Numbering | None = None


class Format(Protocol):
    """One layout of files."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def weights(self) -> str:
        """Name of the file of its tensors. Others that transformers knows are read, too."""

    def owns(self, settings: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this layout."""

    def read(self, given: Given) -> Parts:
        """The head in a config.json and the tensors beside it.

        Raises:
            Unreadable: if something is missing, or is there that this layout does not know.
        """

    def write(self, head: Head) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and tensors.

        Raises:
            Unreadable: if this layout cannot hold such a head.
        """


def says(settings: Mapping[str, Any], architecture: str) -> bool:
    """Whether a config.json lists an architecture."""
    listed = settings.get("architectures")
    return isinstance(listed, list) and architecture in listed


def needed(settings: Mapping[str, Any], key: str) -> Any:
    """A setting that has no default."""
    if settings.get(key) is None:
        raise Unreadable(f"its config.json says nothing of {key!r}")
    return settings[key]


def llama_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `HeadConfig` from a configuration of a Llama-like model, old or new."""
    heads, width = needed(settings, "num_attention_heads"), needed(settings, "hidden_size")
    rope = dict(settings.get("rope_parameters") or settings.get("rope_scaling") or {})
    kind, theta = rope.pop("type", None), rope.pop("rope_theta", None)
    rope.setdefault("rope_type", kind or "default")
    if settings.get("hidden_act", "silu") != "silu":
        raise Unreadable(f"its activation is {shown(settings['hidden_act'])}, not 'silu'")
    return {
        "hidden_size": width,
        "intermediate_size": needed(settings, "intermediate_size"),
        "num_layers": settings.get("num_hidden_layers", 1),
        "num_heads": heads,
        "num_kv_heads": settings.get("num_key_value_heads") or heads,
        "head_dim": settings.get("head_dim") or width // heads,
        "vocab_size": needed(settings, "vocab_size"),
        "rms_norm_eps": settings.get("rms_norm_eps", 1e-6),
        "rope_theta": theta or settings.get("rope_theta") or 10000.0,
        "rope_scaling": rope if rope["rope_type"] != "default" else None,
        "max_positions": settings.get("max_position_embeddings", 2048),
    }


def llama_settings(config: HeadConfig, model_type: str) -> dict[str, Any]:
    """What `llama_fields` reads, under the names that old and new readers know."""
    return {
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling and dict(config.rope_scaling),
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def ids_of(tensors: dict[str, Tensor], vocab_size: int) -> Tensor | None:
    """Takes d2t and t2d out of a file's tensors and gives the draft vocabulary, int64 [Vd]; None if there is none.

    d2t holds offsets: the target's id of draft token i is i + d2t[i]. t2d marks the same tokens among the target's.
    """
    d2t, t2d = tensors.pop("d2t", None), tensors.pop("t2d", None)
    if t2d is not None and t2d.shape != (vocab_size,):
        raise Unreadable(f"t2d has the shape {list(t2d.shape)}, and there are {vocab_size} tokens")
    marked = None if t2d is None else t2d.bool().nonzero()[:, 0]
    if d2t is None:
        return marked if marked is not None and len(marked) < vocab_size else None
    ids = torch.arange(len(d2t)) + d2t.to(torch.int64)
    if not bool((ids.diff() > 0).all()) or not 0 <= int(ids[0]) <= int(ids[-1]) < vocab_size:
        raise Unreadable(
            f"d2t holds offsets that give no increasing token ids below {vocab_size}: {shown(ids[:4].tolist())}… "
            f"to {int(ids[-1])}. Absolute ids are not offsets"
        )
    if marked is not None and not torch.equal(marked, ids):
        raise Unreadable(f"t2d marks {len(marked)} tokens, and d2t lists {len(ids)} that are not the same")
    return ids


def maps_of(head: Head) -> dict[str, Tensor]:
    """d2t, offsets, int64 [Vd], and t2d, bool [V]; nothing if the head knows all tokens."""
    config = head.config
    if config.draft_vocab_size == config.vocab_size:
        return {}
    ids = head.draft_ids.cpu()
    marks = torch.zeros(config.vocab_size, dtype=torch.bool).index_fill(0, ids, True)
    return {"d2t": ids - torch.arange(len(ids)), "t2d": marks}


def boundaries(listed: Any, target_layers: int, own: Numbering, asked: Numbering | None) -> tuple[int, ...]:
    """A file's list of tapped layers as boundaries; -1 counts outputs from the embeddings (boundary 0).

    Args:
        listed: the list.
        target_layers: L.
        own: how the layout counts.
        asked: how this file counts, if it is known to differ.
    """
    shift = (asked or own) == "output"
    taps = tuple(int(layer) + shift for layer in listed)
    if not taps or min(taps) < 0 or max(taps) > target_layers:
        raise Unreadable(
            f"its tapped layers {shown(listed)}, counted as {asked or own}s, do not lie within a target of "
            f"{target_layers} layers"
        )
    return taps


def taken(tensors: dict[str, Tensor], *drop: str) -> dict[str, Tensor]:
    """All but tables that can be computed, and the tensors named."""
    gone = ("rotary_emb.inv_freq", *drop)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(gone)}


def sized(target: TargetSizes | None, name: str) -> TargetSizes:
    """The target's sizes. Raises UnsupportedModelError if they are not known."""
    if target is None:
        raise UnsupportedModelError(f"A {name} head does not say how many layers its target has. Name the target.")
    return target


def weights_of(head: Head) -> dict[str, Tensor]:
    """All that the head keeps for itself, by the names of its module."""
    return {name: weight.detach() for name, weight in head.named_parameters()}


def own_rows(head: Head) -> dict[str, Tensor]:
    """Embedding [V, h] and output rows [Vd, h], for layouts that keep them: the head's own, or those it was shown.

    Raises:
        Unreadable: if it shares them with a target that it was not bound to.
    """
    rows = {"embed_tokens.weight": head.embedding, "lm_head.weight": head.output}
    own = weights_of(head)
    for name, shared in rows.items():
        if name in own:
            rows[name] = own[name]
        elif shared is None:
            raise Unreadable(f"its files hold {name} and the head shares that with a target. Bind it first")
    return {name: tensor for name, tensor in rows.items() if tensor is not None}
