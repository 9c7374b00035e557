"""A job's drafters: those beside the first one, and whether the target can read what they draft."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.drafters.base import Drafter
from specdec.errors import ConfigError
from specdec.models.vocabulary import difference, tokens_of
from specdec.registry import DRAFTERS


def beside(first: Drafter, names: Sequence[str]) -> list[Drafter]:
    """Further drafters, at their defaults.

    Raises:
        ConfigError: for a name that is unknown or there twice, or a drafter that needs an option.
    """
    if twice := sorted({name for name in names if [first.name, *names].count(name) > 1}):
        raise ConfigError(f"beside={list(names)} names {twice[0]!r}, which is there already. Name each drafter once.")
    return [DRAFTERS.create(name) for name in names]


def check_vocabularies(target: str | None, drafters: Sequence[Drafter]) -> None:
    """Raises ConfigError if a token that target and draft both have has two ids, where that can be read without loading
    a model."""
    for drafter in drafters:
        draft = drafter.vocabulary()
        tokens = None if draft is None else tokens_of(target)
        reason = None if draft is None or tokens is None else difference(tokens, draft)
        if reason is not None:
            raise ConfigError(
                f"The drafter's model and the target {reason}. Choose a draft with the target's tokenizer, or "
                "drafter=tli or drafter=slem for one with another."
            )
