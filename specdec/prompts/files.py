"""Rows of a file: JSON lines, a JSON list or Parquet. Nothing is read that is larger than a set of prompts can be."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from specdec.errors import ConfigError
from specdec.foreign import described
from specdec.places import is_file, missing

Row = Mapping[str, Any]
LARGEST, LONGEST_LINE = 1 << 30, 64 << 20
"""Bytes of a file, unpacked, and of a line of it."""
FORMATS = "Give JSON lines, JSON or Parquet, in UTF-8."


def read(file: Path) -> Sequence[Row]:
    """The rows of `placed`, without their places."""
    return [row for _, row in placed(file)]


def placed(file: Path) -> Sequence[tuple[str, Row]]:
    """A file's rows, column name → value, each behind its place: "line 3" of JSON lines, else "row 3".

    Args:
        file: Parquet if its name ends in .parquet; else JSON in UTF-8, one object a line or a list of objects, gzipped
            if its name ends in .gz. A byte order mark and empty lines are passed over.

    Raises:
        ConfigError: if it is missing, damaged or larger than `LARGEST`; of JSON lines, the line is named.
    """
    check_there(file)
    try:
        if file.suffix == ".parquet":
            return _counted(_parquet(file))
        with closing(_opened(file)) as stream:
            first = stream.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf").lstrip()
            while first == b"" and (more := stream.readline(LONGEST_LINE)):
                first = more.lstrip()
        if first.startswith(b"["):
            return _counted(json.loads(_whole(file)))
        return [(f"line {number}", json_of(line, file, number)) for number, line in lines(file)]
    except ConfigError:
        raise
    except (ValueError, OSError, EOFError, zlib.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{file} cannot be read: {described(error)} {FORMATS}") from error


def check_there(file: Path, setting: str = "data.path") -> None:
    """Raises ConfigError unless there is a regular file that may be read; `setting` is what names it."""
    if not is_file(file):
        raise ConfigError(f"There is no prompt file at {file}. {missing(file)} Give one with {setting}=…")
    if not os.access(file, os.R_OK):
        raise ConfigError(f"{file} may not be read. Change its permissions, or give another file with {setting}=…")


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers, counted from 1; only line feeds end them.

    Raises:
        ConfigError: if the file is no UTF-8, or has a line or a size beyond the bounds.
        OSError, EOFError, zlib.error: as reading and unpacking raise them.
    """
    total = 0
    with closing(_opened(file)) as stream:
        number = 0
        while data := stream.readline(LONGEST_LINE + 1):
            number += 1
            total += len(data)
            if len(data) > LONGEST_LINE or total > LARGEST:
                raise ConfigError(_too_large(f"{file}, line {number},"))
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ConfigError(f"{file}, line {number}, cannot be read: {error}. {FORMATS}") from error
            if line.strip():
                yield number, line


def json_of(line: str, file: Path, number: int) -> Any:
    """A line's value; raises ConfigError that names the line if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}, line {number}, is not JSON: {described(error)} Give one object a line.") from error


def read_text(file: Path, setting: str) -> str:
    """A file that is one text, in UTF-8.

    Args:
        file: where it is.
        setting: what names it, for messages.

    Raises:
        ConfigError: if it is missing, no UTF-8, or larger than a line of a prompt file may be.
    """
    if not is_file(file):
        raise ConfigError(f"{setting}: there is no file at {file}. {missing(file)} A text that begins with @ takes @@.")
    try:
        with file.open("rb") as stream:
            data = stream.read(LONGEST_LINE + 1)
        if len(data) > LONGEST_LINE:
            raise ConfigError(_too_large(f"{setting}: {file}"))
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: {file} cannot be read: {error}. Give a text in UTF-8.") from error


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _whole(file: Path) -> str:
    with closing(_opened(file)) as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ConfigError(_too_large(str(file)))
    return data.decode("utf-8-sig")


def _parquet(file: Path) -> Sequence[Row]:
    import pyarrow.parquet as pq  # few programs read such files, and it takes long to load

    with pq.ParquetFile(file) as table:
        about = table.metadata
        size = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
        if max(size, file.stat().st_size) > LARGEST:
            raise ConfigError(_too_large(str(file)))
        rows: list[Row] = table.read().to_pylist()
    return rows


def _counted(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _too_large(what: str) -> str:
    return (
        f"{what} is larger than a prompt file may be ({LONGEST_LINE >> 20} MiB a line, {LARGEST >> 20} MiB unpacked). "
        "Give a part of it."
    )
