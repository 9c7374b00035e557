"""Rows of a file: JSON lines, a JSON list or Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from specdec.errors import ConfigError

Row = Mapping[str, Any]


def read(file: Path) -> Sequence[Row]:
    """A file's rows, column name → value.

    Args:
        file: Parquet if its name ends in .parquet; else JSON in UTF-8, one object a line or a list of objects, gzipped
            if its name ends in .gz.

    Raises:
        ConfigError: if it is missing or damaged; of JSON lines, the line is named.
    """
    if not file.is_file():
        raise ConfigError(f"There is no prompt file at {file}. Give one with data.path=…")
    try:
        if file.suffix == ".parquet":
            table: list[Row] = pq.read_table(file).to_pylist()
            return table
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
        if text.lstrip().startswith("["):
            listed: list[Row] = json.loads(text)
            return listed
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Give JSON lines, JSON or Parquet, in UTF-8.") from error
    return _lines(text, file)


def _lines(text: str, file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON strings may hold other separators
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}, line {number}, is no JSON: {error}. Give one object a line.") from error
    return rows
