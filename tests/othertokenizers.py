"""Drafters whose draft model has another tokenizer than the target, for engines that have none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from specdec.drafters.base import Drafter, Needs, TargetHandle
from specdec.models.base import CausalLM
from specdec.testing.tiny import llama
from tests.toytokenizers import of_strings

D = TypeVar("D", bound=Drafter)


def with_tokenizer(drafter: D, tokenizer: Any) -> D:
    """The drafter, told that this is the target's tokenizer."""
    bind = drafter.bind

    def told(target: TargetHandle) -> Needs:
        return bind(replace(target, tokenizer=tokenizer))

    drafter.bind = told  # type: ignore[method-assign]
    return drafter


def other_tokenizer(kind: type[D], target: CausalLM, **options: Any) -> D:
    """A drafter with a random draft model. The target's tokens are the shortest strings over one alphabet, the draft's
    over another, so that the same text has other tokens, and the same token another id."""
    draft = llama(7, vocab_size=target.vocab_size + 3)
    drafter = kind(draft=draft, draft_tokenizer=of_strings(draft.vocab_size, "b a"), **options)
    return with_tokenizer(drafter, of_strings(target.vocab_size, "ab "))
