"""Sets of prompts: where their rows are, and which columns make a prompt of a row. Each is a file in configs/data/."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from specdec.errors import ConfigError
from specdec.prompts.records import PromptRecord
from specdec.prompts.subsets import SUBSETS, choose, of_categories

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptSet:
    """Rows from a file, from an installed package or from a hub, the first of those that is given.

    Args:
        name: of the set; also the category of its prompts, if `category` is None.
        prompt: format string over a row's columns. Of a column that holds a list (the turns of a conversation) the
            first entry is taken.
        id: column with the name of a prompt; None counts rows.
        category: column with its category.
        path: a .jsonl or .json file, either of them also gzipped, or a .parquet file.
        package: `[module, file]` of an installed package that holds the rows.
        hub: keyword arguments of `datasets.load_dataset`: path, name, split.
        limit: take no more than this many.
        subset: how: "even" over categories, "first", or "random".
        seed: of the random subset.
        categories: take only these.

    Raises:
        ConfigError: for an unknown subset or a limit below 1.
    """

    name: str
    prompt: str
    id: str | None = None
    category: str | None = None
    path: str | None = None
    package: Sequence[str] | None = None
    hub: Mapping[str, Any] | None = None
    limit: int | None = None
    subset: str = "even"
    seed: int = 0
    categories: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise ConfigError(f"data.subset={self.subset!r} is unknown. Valid names: {', '.join(SUBSETS)}.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit} leaves no prompt. Give at least 1, or null for all.")

    def load(self) -> list[PromptRecord]:
        """The chosen prompts, in their order.

        Raises:
            ConfigError: if rows cannot be had or lack a column, two have one id, or none is left.
        """
        records = [self._record(number, row) for number, row in enumerate(self._rows(), 1)]
        if len({record.question_id for record in records}) < len(records):
            raise ConfigError(f"{self._origin}: two prompts have one id. Set data.id=null to count rows instead.")
        if self.categories is not None:
            records = of_categories(records, self.categories)
        records = choose(records, self.limit, self.subset, self.seed)
        if not records:
            raise ConfigError(f"{self._origin} holds no prompts.")
        return records

    @property
    def _origin(self) -> str:
        return self.path or f"The set {self.name!r}"

    def _record(self, number: int, row: Row) -> PromptRecord:
        try:
            single = {key: value[0] if isinstance(value, list) else value for key, value in row.items() if value != []}
            identifier = str(number) if self.id is None else str(single[self.id])
            category = self.name if self.category is None else str(single[self.category])
            return PromptRecord(identifier, category, self.prompt.format_map(single).strip())
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            wanted = ", ".join(filter(None, (self.id, self.category, self.prompt)))
            raise ConfigError(
                f"{self._origin}, row {number}: {error!r}. Expected {wanted}; data.id, data.category and data.prompt "
                "name the columns."
            ) from error

    def _rows(self) -> Iterable[Row]:
        if self.path is not None:
            return _read(Path(self.path))
        if self.package is not None:
            return _read(_packaged(*self.package))
        return _from_hub(self.name, self.hub or {})


def _packaged(module: str, file: str) -> Path:
    try:
        return Path(str(files(module).joinpath(file)))
    except ModuleNotFoundError as error:
        raise ConfigError(f"The package {module} is not installed. Run `pip install 'specdec-lab[data]'`.") from error


def _read(file: Path) -> Iterable[Row]:
    """Rows of a file, by its name's ending."""
    if not file.is_file():
        raise ConfigError(f"There is no prompt file at {file}. Give one with data.path=…")
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        rows: list[Row] = pq.read_table(file).to_pylist()
        return rows
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.name.endswith(".gz") else data).decode("utf-8")
        if name.endswith(".json"):
            listed: list[Row] = json.loads(text)
            return listed
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Give JSON lines, JSON or Parquet, in UTF-8.") from error


def _from_hub(name: str, hub: Mapping[str, Any]) -> Iterable[Row]:
    """Through `datasets`, which keeps what it has read."""
    remedy = f"Give the set's file with data.path=…, or `pip install 'specdec-lab[data]'` and read {hub['path']} once."
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"The set {name!r} is not here, and the package `datasets` neither. {remedy}") from error
    try:
        rows: Iterable[Row] = datasets.load_dataset(**hub)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The set {name!r} cannot be had from the hub: {error} {remedy}") from error
    return rows
