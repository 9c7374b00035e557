"""What a model's own files say of generating: where its texts end, and how it is meant to be sampled.

The files are read as they lie there: a library's classes fill in defaults of their own, which are not the model's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specdec.checks import Kind, either, flag, several, shown, take, whole
from specdec.errors import UnsupportedModelError
from specdec.models.files import json_file
from specdec.models.gguf import gguf_header
from specdec.sampling.params import KINDS, SamplingParams

TOKENS = either(whole(), several(whole(), "")).but("a token id or a list of token ids")
SUPPRESSED = several(whole(-1), "a list of token ids")
WORDS = several(several(whole(), "", least=1), "a list of lists of token ids")
FIELDS: dict[str, tuple[str, Kind]] = {
    "max_new_tokens": ("max_tokens", KINDS["max_tokens"]),
    "min_new_tokens": ("min_tokens", KINDS["min_tokens"]),
    "temperature": ("temperature", KINDS["temperature"]),
    "top_k": ("top_k", KINDS["top_k"]),
    "top_p": ("top_p", KINDS["top_p"]),
    "min_p": ("min_p", KINDS["min_p"]),
    "repetition_penalty": ("repetition_penalty", KINDS["repetition_penalty"]),
    "suppress_tokens": ("suppress_tokens", SUPPRESSED),
    "begin_suppress_tokens": ("begin_suppress_tokens", SUPPRESSED),
    "bad_words_ids": ("bad_words", WORDS),
}
"""transformers' name → the field of `SamplingParams` of the same meaning, and what it may be."""
UNKNOWN: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "min_length": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "dola_layers": (),
    "token_healing": (False,),
    "sequence_bias": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "constraints": (),
    "stop_strings": (),
    "watermarking_config": (),
    "max_time": (),
}
"""What changes a text of `generate` and is nothing that specdec does → values that switch it off, besides null."""


@dataclass(frozen=True)
class Words:
    """What one file says; names and meanings are those of transformers' `GenerationConfig`.

    Args:
        said: the file's entries.
        where: the file.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    where: Path = Path()

    @classmethod
    def of_folder(cls, folder: Path) -> Words:
        """Of generation_config.json, or of config.json if there is none: `generate` looks at one of the two.

        Raises:
            UnsupportedModelError: if the file is broken.
        """
        where = folder / "generation_config.json"
        if where.is_file():
            return cls(json_file(where), where)
        config = json_file(folder / "config.json")
        inner = config.get("text_config")
        own = {name: value for name, value in config.items() if value is not None}
        return cls({**(inner if isinstance(inner, dict) else {}), **own}, folder / "config.json")

    @classmethod
    def of_gguf(cls, path: Path) -> Words:
        """Of a GGUF file, which knows its end token alone.

        Raises:
            UnsupportedModelError: if the file is broken.
        """
        return cls({"eos_token_id": gguf_header(path).values.get("tokenizer.ggml.eos_token_id")}, path)

    def eos(self) -> tuple[int, ...]:
        """Token ids that end a text, ascending.

        Raises:
            UnsupportedModelError: if they are none.
        """
        named = self._taken("eos_token_id", TOKENS)
        listed = () if named is None else named if isinstance(named, tuple) else (named,)
        return tuple(sorted(set(listed)))

    def defaults(self, vocab_size: int) -> dict[str, Any]:
        """Field of `SamplingParams` → the model's own value, for `SamplingParams.over`.

        Sampling itself is on only if the file says `do_sample`; then its temperature is 1 unless the file says another.
        Filters stand for whoever samples. Ids beyond the vocabulary are left out, as `generate` does.

        Raises:
            UnsupportedModelError: if the file says what specdec does not do, or what cannot be; names it.
        """
        self._check_known()
        found: dict[str, Any] = {"temperature": 1.0}
        samples = self._taken("do_sample", flag())
        for name, (own, kind) in FIELDS.items():
            if (name != "temperature" or samples) and (value := self._taken(name, kind)) is not None:
                found[own] = value
        if not samples:
            del found["temperature"]
        for own in ("suppress_tokens", "begin_suppress_tokens"):
            if own in found:
                found[own] = tuple(token for token in found[own] if 0 <= token < vocab_size)
        if "bad_words" in found:
            ends = {(token,) for token in self.eos()}  # generate lets a text end, whatever is banned
            found["bad_words"] = tuple(word for word in found["bad_words"] if word not in ends)
        unset = SamplingParams()
        return {own: value for own, value in found.items() if value != getattr(unset, own)}

    def _taken(self, name: str, kind: Kind) -> Any:
        value = self.said.get(name)
        return None if value is None else take(f"{name} in {self.where}", value, kind, UnsupportedModelError)

    def _check_known(self) -> None:
        for name, off in UNKNOWN.items():
            value = self.said.get(name)
            if value is not None and value not in off:
                raise UnsupportedModelError(
                    f"{self.where} says {name} = {shown(value)}, which specdec does not do: its texts would differ "
                    "from generate's. Load the model with generation_config='none' to go without what that file says."
                )
