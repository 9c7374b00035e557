"""Settings whose values are a person's own words: prompts, paths and names. The command line takes them as typed.

A parameter says so by its type: `path: TypedPath | None = None`. Every other setting is written in Hydra's grammar.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints


@dataclass(frozen=True)
class Typed:
    """Mark of such a type.

    Args:
        kind: "text" may come from a file (`@file`) or from the standard input (`-`); in a "path" `~` is the home
            folder, and `null` stands for none; a "name" means nothing but itself.
    """

    kind: Literal["text", "path", "name"]


TypedText: TypeAlias = Annotated[str, Typed("text")]
TypedPath: TypeAlias = Annotated[str, Typed("path")]
TypedName: TypeAlias = Annotated[str, Typed("name")]


def typed_parameters(source: Callable[..., Any]) -> dict[str, Typed]:
    """The marked parameters of a class or function, by name; none where its types cannot be had."""
    try:
        whole = is_dataclass(source) or not inspect.isclass(source)
        hints = get_type_hints(source if whole else source.__init__, include_extras=True)
    except Exception:  # names that only a type checker knows: any error that evaluating them brings
        return {}
    return {name: mark for name, hint in hints.items() if (mark := _mark(hint)) is not None}


def _mark(hint: Any) -> Typed | None:
    """Of a type, or of the part of a union that has one."""
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        mark = part if isinstance(part, Typed) else _mark(part)
        if mark is not None:
            return mark
    return None
