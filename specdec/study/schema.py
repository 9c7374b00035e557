"""Schemas of settings, made from the signatures of what takes them: nothing is written twice.

OmegaConf checks types, but knows few of them, and a frozen dataclass makes its node read-only. So a schema is a
dataclass of its own: the same names and defaults, and of each type what a config file can hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, make_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from specdec.sampling.params import Unset

SCALARS = (str, int, float, bool)


def schema(name: str, source: Callable[..., Any], without: Collection[str] = (), **defaults: Any) -> type[Any]:
    """A dataclass of the parameters of `source`, with its docstring.

    Args:
        name: of the dataclass; OmegaConf's messages name it.
        source: a function or a dataclass. All of its parameters are named, and have a default or one in `defaults`.
        without: parameters that are no settings.
        defaults: that differ from the signature's. What nobody set (`Unset`) may be null, and is unless it is given.

    Raises:
        TypeError: for a parameter of a type that no config file can hold.
    """
    hints = get_type_hints(source, include_extras=True)
    fields = []
    for parameter in inspect.signature(source).parameters.values():
        if parameter.name not in without:
            kind = setting_type(f"{source.__name__}.{parameter.name}", hints[parameter.name])
            default = defaults.get(parameter.name, parameter.default)
            if isinstance(default, Unset):
                kind, default = kind | None, None
            fields.append((parameter.name, kind, _default({} if get_origin(kind) is dict and not default else default)))
    made = make_dataclass(name, fields)
    made.__doc__ = source.__doc__
    return made


def setting_type(name: str, hint: Any) -> Any:
    """What a config holds for a parameter of the type `hint`.

    | parameter | setting |
    |---|---|
    | `str`, `int`, `float`, `bool` | the same |
    | `Literal` of one scalar type | that type |
    | `Mapping[K, V]`, `dict[K, V]`, or None | `dict[K, V]`, empty for None: entries are added to it (`+name={…}`) |
    | another `X \\| None` | the setting for X, or null |
    | `Annotated[X, …]` | the setting for X, with the same marks |
    | `Sequence[X]`, `list[X]`, `tuple[X, ...]` | `list[X]` of a scalar X, else a list of anything |

    Raises:
        TypeError: for any other type.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return hint
    if origin is Annotated:
        marked: Any = (setting_type(name, parts[0]), *hint.__metadata__)
        return Annotated[marked]
    if origin in (Union, UnionType) and NoneType in parts and len(parts) == 2:
        [inner] = [part for part in parts if part is not NoneType]
        kind = setting_type(name, inner)
        return kind if get_origin(kind) is dict else kind | None
    if origin is Literal and len(kinds := {type(value) for value in parts}) == 1:
        return setting_type(name, kinds.pop())
    if origin in (dict, Mapping):
        return dict[parts[0], parts[1]]  # type: ignore[valid-type]
    if origin in (list, tuple, Sequence):
        return list[parts[0]] if parts[0] in SCALARS else list[Any]  # type: ignore[valid-type]
    raise TypeError(f"{name}: a setting cannot be {hint}. Give it a type that a config file can hold, or leave it out.")


def _default(value: Any) -> Any:
    """Containers are made anew for each config."""
    if isinstance(value, list | tuple | Mapping):
        return field(default_factory=lambda: dict(value) if isinstance(value, Mapping) else list(value))
    return field(default=value)
