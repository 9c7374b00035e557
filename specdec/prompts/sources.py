"""Sets of prompts: where their rows are, and which columns make a prompt of a row. Each is a file in configs/data/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from specdec.checks import shown
from specdec.errors import ConfigError
from specdec.foreign import described, foreign
from specdec.prompts.files import Row, check_there, placed
from specdec.prompts.records import PromptRecord, record_of
from specdec.prompts.subsets import SUBSETS, choose, of_categories
from specdec.typed import TypedPath


@dataclass(frozen=True)
class PromptSet:
    """Rows from a file, from an installed package or from a hub: the first of these that exists.

    If `prompt`, `id`, `category` or `turns` names several alternatives, the first one whose columns a row has is taken.
    If a column holds a list (the turns of a conversation), its first entry makes the prompt. A column that is null or
    an empty list counts as missing.

    Args:
        name: name of the set; also the category of its prompts, if `category` is None.
        prompt: format string over a row's columns, or several.
        id: column with the name of a prompt, or several; None counts rows.
        category: column with the category, or several.
        turns: column whose list is a conversation, or several: what follows its first entry is asked after the answer.
            None asks the first alone.
        groups: group → categories in it. A category that is in one counts as that group, and stays as the prompt's
            kind.
        path: a file of rows: .jsonl, .json (also .gz) or .parquet.
        package: `[module, file]` of a package that holds the rows, if it is installed.
        hub: keyword arguments of `datasets.load_dataset`: path, name, split.
        placeholder: what a prompt begins with whose text must be fetched from elsewhere first.
        limit: most prompts to take.
        subset: how to choose them: "even" over categories, "first", or "random".
        seed: seed of the random subset.
        categories: take only prompts of these categories.

    Raises:
        ConfigError: for a format string that is none, an unknown subset, or a limit below 1.
    """

    name: str
    prompt: str | Sequence[str]
    id: str | Sequence[str] | None = None
    category: str | Sequence[str] | None = None
    turns: str | Sequence[str] | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    path: TypedPath | None = None
    package: Sequence[str] | None = None
    hub: Mapping[str, Any] | None = None
    placeholder: str | None = None
    limit: int | None = None
    subset: str = "even"
    seed: int = 0
    categories: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for template in _listed(self.prompt):
            try:
                _columns(template)
            except ValueError as error:
                raise ConfigError(
                    f"data.prompt={template!r} is not a format string: {error}. Write {{column}}."
                ) from error
        if self.subset not in SUBSETS:
            raise ConfigError(f"data.subset={self.subset!r} is unknown. Valid names: {', '.join(SUBSETS)}.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit} leaves no prompt. Give at least 1, or null for all.")

    def check(self) -> None:
        """Raises ConfigError if the set comes from a file, and that cannot be read."""
        if self.path is not None:
            check_there(Path(self.path))

    def load(self) -> list[PromptRecord]:
        """The chosen prompts, in their order.

        Raises:
            ConfigError: if rows cannot be had or lack a column, a prompt is empty or a placeholder, two have one id, or
                none is left.
        """
        records = [
            self._grouped(self._record(number, place, row)) for number, (place, row) in enumerate(self._rows(), 1)
        ]
        if len({record.question_id for record in records}) < len(records):
            raise ConfigError(f"{self._origin}: two prompts have one id. Set data.id=null to count rows instead.")
        if self.categories is not None:
            records = of_categories(records, self.categories)
        self._check_fetched(records)
        records = choose(records, self.limit, self.subset, self.seed)
        if not records:
            raise ConfigError(f"{self._origin} holds no prompts.")
        return records

    @property
    def _origin(self) -> str:
        return self.path or f"The set {self.name!r}"

    def _record(self, number: int, place: str, row: Row) -> PromptRecord:
        where = f"{self._origin}, {place}"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where}: {shown(row)} is not an object. Give one with columns a row.")
        try:
            there = {key: _first(value) for key, value in row.items() if value is not None and value != []}
            record = record_of(
                where,
                number if self.id is None else _column(self.id, there),
                self.name if self.category is None else _column(self.category, there),
                _filled(self.prompt, there),
                self._later(row),
            )
        except ConfigError:
            raise
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            lack = f"No column {error}." if isinstance(error, KeyError) else described(error)
            wanted = ", ".join(" or ".join(_listed(name)) for name in (self.id, self.category, self.prompt) if name)
            raise ConfigError(
                f"{where}: {lack} Expected {wanted}; data.id, data.category and data.prompt name the columns."
            ) from error
        return record

    def _later(self, row: Row) -> list[Any]:
        """The turns after the first."""
        asked = next((row[name] for name in _listed(self.turns or ()) if row.get(name) is not None), None)
        return (
            [turn.strip() if isinstance(turn, str) else turn for turn in asked[1:]] if isinstance(asked, list) else []
        )

    def _grouped(self, record: PromptRecord) -> PromptRecord:
        groups = [name for name, kinds in (self.groups or {}).items() if record.category in kinds]
        return replace(record, category=groups[0], kind=record.category) if groups else record

    def _check_fetched(self, records: Sequence[PromptRecord]) -> None:
        if self.placeholder is None:
            return
        lacking = [record for record in records if any(turn.startswith(self.placeholder) for turn in record.turns)]
        if lacking:
            whole = sorted({record.category for record in records} - {record.category for record in lacking})
            raise ConfigError(
                f"{self._origin}: {len(lacking)} of {len(records)} prompts are placeholders. Fetch their texts "
                "(docs/data.md) and give the file with data.path=…"
                + (f", or take data.categories=[{','.join(whole)}]." if whole else ".")
            )

    def _rows(self) -> Iterable[tuple[str, Row]]:
        """Each behind its place."""
        if self.path is not None:
            return placed(Path(self.path))
        if self.package is not None and (file := _packaged(*self.package)) is not None:
            return placed(file)
        if self.hub is not None:
            return ((f"row {number}", row) for number, row in enumerate(_from_hub(self.name, self.hub), 1))
        raise ConfigError(f"The set {self.name!r} is in no package here and on no hub. Give its file with data.path=…")


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _columns(template: str) -> set[str]:
    """What a format string asks for: {"a", "b"} of "{a[0]} and {b}"."""
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(template) if name is not None}


def _column(names: str | Sequence[str], row: Row) -> Any:
    return row[next((name for name in _listed(names) if name in row), _listed(names)[0])]


def _filled(templates: str | Sequence[str], row: Row) -> str:
    fitting = (template for template in _listed(templates) if _columns(template) <= row.keys())
    return _Filler().vformat(next(fitting, _listed(templates)[0]), (), row).strip()


class _Filler(Formatter):
    """Puts texts into a template, and numbers beside them; of anything else one would decode its Python name."""

    def vformat(self, format_string: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """A template that is one column alone takes texts only."""
        parts = list(self.parse(format_string))
        self._kinds: tuple[type, ...] = (str,) if len(parts) == 1 and not parts[0][0] else (str, int, float)
        return super().vformat(format_string, args, kwargs)

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The value of a column, or what is inside of it.

        Raises:
            TypeError: if it is no text.
        """
        value, used = super().get_field(field_name, args, kwargs)
        if not isinstance(value, self._kinds) or isinstance(value, bool):
            raise TypeError(f"{field_name} = {shown(value)} is no text.")
        return value, used


def _packaged(module: str, file: str) -> Path | None:
    """None if the package is not installed."""
    try:
        return Path(str(files(module).joinpath(file)))
    except ModuleNotFoundError:
        return None


def _from_hub(name: str, hub: Mapping[str, Any]) -> Iterable[Row]:
    """Through `datasets`, which keeps what it has read."""
    place = hub.get("path", name)
    remedy = f"Give the set's file with data.path=…, or `pip install 'specdec-lab[data]'` and read {place} once."
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"The set {name!r} is not here, and the package `datasets` neither. {remedy}") from error
    with foreign(ConfigError, f"The set {name!r} cannot be had from the hub", remedy):
        return list(datasets.load_dataset(**hub))
