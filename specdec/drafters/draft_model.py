"""A drafter's language model: what may be given as one, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specdec.checks import Kind, Unfit, mapping, shown, take, text
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.typed import TypedPath

OPTIONS = mapping(text(), Kind(lambda value: value, ""), "names of options mapped to their values").or_none()


def _tokenizer(value: Any) -> Any:
    if all(callable(getattr(value, method, None)) for method in ("get_vocab", "encode", "decode")):
        return value
    raise Unfit


TOKENIZER = Kind(_tokenizer, "a tokenizer of transformers").or_none(" for the one that is loaded with the draft")


@dataclass(frozen=True)
class DraftSource:
    """Where a draft model comes from.

    Args:
        name: of the drafter, for messages.
        draft: a model, or where to load one from: hub id, folder or GGUF file.
        load_options: passed to `specdec.models.loading.load` if `draft` is a path.
        tokenizer: the draft model's; None for the one that is loaded with it.

    Raises:
        ConfigError: for anything else.
    """

    name: str
    draft: TypedPath | CausalLM | None
    load_options: Mapping[str, Any] | None = None
    tokenizer: Any = None
    _options: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.draft is None:
            raise ConfigError(f"The {self.name} drafter needs draft=<hub id, folder, GGUF file or model>.")
        if not isinstance(self.draft, str) and not hasattr(self.draft, "run"):
            raise ConfigError(
                f"draft = {shown(self.draft)} cannot work. Give a hub id, a folder, a GGUF file or a model."
            )
        object.__setattr__(self, "_options", take("load_options", self.load_options, OPTIONS) or {})
        take("draft_tokenizer", self.tokenizer, TOKENIZER)

    @property
    def path(self) -> str | None:
        """Where it is loaded from; None if it is a model already."""
        return self.draft if isinstance(self.draft, str) else None

    def load(self) -> tuple[CausalLM, Any]:
        """The model and its tokenizer, or None if nobody gave one."""
        if self.draft is None or not isinstance(self.draft, str):
            assert self.draft is not None  # refused when it was given
            return self.draft, self.tokenizer
        from specdec.models.loading import load

        # How the draft model is meant to be sampled counts for nothing: the request says how.
        loaded = load(self.draft, **{"generation_config": "none", **self._options})
        return loaded.model, loaded.tokenizer if self.tokenizer is None else self.tokenizer
