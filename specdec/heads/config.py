"""Everything that is known of a trained head but its weights, and whether it fits a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specdec.checks import flag, instance, number, settle, several, shown, text, whole
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.models.llama import ROPE_TYPES

_COUNTS = (
    "hidden_size", "target_hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size",
    "draft_vocab_size", "target_layers", "max_positions", "block_size",
)  # fmt: skip
_FLAGS = (
    "qk_norm", "qkv_bias", "causal", "anchor_predicts", "confidence", "confidence_with_markov", "fc_norm", "fc_bias",
    "norm_output", "norm_before_residual", "norm_before_fc", "own_embedding", "own_output", "o_bias", "markov_all",
)  # fmt: skip
_POSITIVE = number(lambda value: 0 < value < float("inf"), "a number > 0")
KINDS = {
    "architecture": text(),
    **{name: whole(1, 2**24) for name in _COUNTS},
    **{name: flag() for name in _FLAGS},
    "num_layers": whole(0, 256),
    "medusa_heads": whole(0, 64),
    "markov_rank": whole(0, 2**16),
    "mask_token_id": whole(),
    "taps": several(whole(), "1 to 256 layer boundaries", least=1, most=256),
    "rms_norm_eps": _POSITIVE,
    "rope_theta": _POSITIVE,
    "rope_scaling": instance(Mapping, "rotary settings as in transformers' rope_parameters").or_none(),
}


@dataclass(frozen=True)
class TargetSizes:
    """What a head must know of the model that it drafts for: L, H and V."""

    num_layers: int
    hidden_size: int
    vocab_size: int

    @classmethod
    def of(cls, target: CausalLM | TargetSizes) -> TargetSizes:
        """Of a model; sizes stay what they are."""
        if isinstance(target, TargetSizes):
            return target
        return cls(target.kv_layout.num_layers, target.hidden_size, target.vocab_size)


@dataclass(frozen=True)
class HeadConfig:
    """Sizes and switches of a head; h is its width, H the target's, V and Vd the two vocabularies' sizes.

    Args:
        architecture: name of the class, as in `specdec.heads.files.ARCHITECTURES`.
        hidden_size, target_hidden_size: h and H.
        intermediate_size, num_heads, num_kv_heads, head_dim: of its layers; head_dim need not be h / heads.
        num_layers: decoder layers; of Medusa, residual blocks of each head.
        vocab_size, draft_vocab_size: V and Vd ≤ V. With Vd < V the head has a list of the tokens that it knows.
        target_layers: L, how many layers the target has.
        taps: boundaries of the target that it reads, as `Wants.hidden` counts them: boundary l < L is the stream
            before layer l (transformers' `hidden_states[l]`), boundary L the state after the last norm.
        rms_norm_eps, rope_theta, rope_scaling: as in transformers' configurations.
        max_positions: the longest text that it is made for. Nothing is cut off behind it.
        qk_norm: norms of single queries and keys (Qwen3).
        qkv_bias, o_bias: biases of attention's products.
        block_size: γ, rows of a block: the anchor and γ - 1 masks.
        causal: a block's row sees only the rows before it (JetSpec), not all of them (DFlash).
        anchor_predicts: row k gives the token after it (DSpark), so γ tokens; else the token in its own place (DFlash),
            so γ - 1.
        mask_token_id: the token that stands in the rows after the anchor.
        markov_rank: r of the term W2 W1[previous token]; 0 for none.
        markov_all: W1 has a row for each of the target's V tokens; else for the draft vocabulary's, and one for all
            others together.
        confidence, confidence_with_markov: whether there is a confidence head, and whether it reads W1[previous token].
        fc_norm: one norm for each tap before fc (EAGLE-3.1). norm_before_fc: one norm over all of them.
        fc_bias: whether fc has one (EAGLE-1; of Medusa, its residual blocks).
        norm_output: an EAGLE-3 step gives the next one its normed output. norm_before_residual: its residual stream
            begins behind the norm of the target's state.
        medusa_heads: how many, of Medusa.
        own_embedding, own_output: the head has an embedding or output rows of its own and does not share the target's.

    Raises:
        ConfigError: if a value, or two of them together, cannot work.
    """

    architecture: str
    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    target_layers: int
    taps: tuple[int, ...]
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    max_positions: int = 2048
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    block_size: int = 1
    causal: bool = False
    anchor_predicts: bool = True
    mask_token_id: int = 0
    markov_rank: int = 0
    markov_all: bool = False
    confidence: bool = False
    confidence_with_markov: bool = True
    fc_norm: bool = False
    fc_bias: bool = False
    norm_output: bool = False
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    medusa_heads: int = 0
    own_embedding: bool = False
    own_output: bool = False

    def __post_init__(self) -> None:
        settle(self, KINDS)
        if any(not a < b for a, b in pairwise((-1, *self.taps, self.target_layers + 1))):
            raise ConfigError(f"taps={self.taps} must be increasing boundaries from 0 to {self.target_layers}.")
        if self.draft_vocab_size > self.vocab_size or self.mask_token_id >= self.vocab_size:
            raise ConfigError(
                f"draft_vocab_size={self.draft_vocab_size} and mask_token_id={self.mask_token_id} must lie within the "
                f"target's vocabulary of {self.vocab_size}."
            )
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise ConfigError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}, and "
                f"head_dim={self.head_dim} even."
            )
        kind = (self.rope_scaling or {}).get("rope_type", "default")
        if kind not in ROPE_TYPES:
            raise ConfigError(f"rope_scaling has the type {shown(kind)}. Give one of {', '.join(ROPE_TYPES)}.")

    @classmethod
    def like(cls, target: Any, architecture: str, **options: Any) -> HeadConfig:
        """Sizes of a target's own layers, and its whole vocabulary, where `options` say nothing else.

        Args:
            target: transformers' configuration of a model of the Llama family.
        """
        rope = dict(target.rope_parameters or {})
        theta, scaled = rope.pop("rope_theta", 10000.0), rope.get("rope_type", "default") != "default"
        sizes: dict[str, Any] = {
            "hidden_size": target.hidden_size,
            "target_hidden_size": target.hidden_size,
            "intermediate_size": target.intermediate_size,
            "num_layers": 1,
            "num_heads": target.num_attention_heads,
            "num_kv_heads": target.num_key_value_heads,
            "head_dim": getattr(target, "head_dim", None) or target.hidden_size // target.num_attention_heads,
            "vocab_size": target.vocab_size,
            "draft_vocab_size": target.vocab_size,
            "target_layers": target.num_hidden_layers,
            "taps": (target.num_hidden_layers,),
            "rms_norm_eps": target.rms_norm_eps,
            "rope_theta": theta,
            "rope_scaling": rope if scaled else None,
            "max_positions": target.max_position_embeddings,
            "qk_norm": target.model_type == "qwen3",
            "qkv_bias": target.model_type == "qwen2" or bool(getattr(target, "attention_bias", False)),
        }
        return cls(architecture, **(sizes | options))

    @property
    def num_drafted(self) -> int:
        """Tokens that one block, or all Medusa heads together, can draft."""
        return self.medusa_heads or self.block_size - (not self.anchor_predicts)

    @cached_property
    def rotary(self) -> tuple[Tensor, float]:
        """Frequencies, float32 [head_dim / 2] in radians per position, and a factor on cosines and sines; as
        transformers has them."""
        settings = {"rope_type": "default", **(self.rope_scaling or {}), "rope_theta": self.rope_theta}
        embedding = LlamaRotaryEmbedding(
            LlamaConfig(
                hidden_size=self.num_heads * self.head_dim,
                num_attention_heads=self.num_heads,
                head_dim=self.head_dim,
                max_position_embeddings=self.max_positions,
                rope_parameters=settings,
            )
        )
        return embedding.inv_freq.float(), float(embedding.attention_scaling)

    def why_not(self, target: CausalLM | TargetSizes) -> str | None:
        """Why the head cannot draft for the target; None if it can."""
        its = TargetSizes.of(target)
        sizes = {
            "layers": (self.target_layers, its.num_layers),
            "a stream of width": (self.target_hidden_size, its.hidden_size),
            "a vocabulary of": (self.vocab_size, its.vocab_size),
        }
        wrong = [f"{name} {ours}, not {other}" for name, (ours, other) in sizes.items() if ours != other]
        return f"it is made for a target with {' and '.join(wrong)}" if wrong else None

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        held = asdict(self)
        return {**held, "taps": list(self.taps), "rope_scaling": self.rope_scaling and dict(self.rope_scaling)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeadConfig:
        """What `to_json` gave.

        Raises:
            ConfigError: if a field is missing or unknown, or its value cannot work.
        """
        known = {field.name for field in fields(cls)}
        if strange := sorted(set(values) - known):
            raise ConfigError(f"{shown(strange[0])} is not a setting of a head. Known are: {', '.join(sorted(known))}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"The settings of a head are not complete: {error}.") from error
