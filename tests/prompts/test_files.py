"""Files of rows: every kind that is read, and every kind of damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specdec import ConfigError
from specdec.prompts.files import read

ROWS = [{"text": "Größe €\u2028two", "n": 1}, {"text": "[three]", "n": 2}]
LINES = "\n" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
LIST = json.dumps(ROWS, indent=2)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", LINES.encode()),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("x.json", LIST.encode()),
        ("x.json.gz", gzip.compress(LIST.encode(), mtime=0)),
        ("x.json", LINES.encode()),
    ],
    ids=["lines", "lines, gzipped", "list", "list, gzipped", "lines named as a list"],
)
def test_json_in_lines_and_in_a_list(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == ROWS


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([*ROWS, {"text": None, "n": 3}]), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == [*ROWS, {"text": None, "n": 3}]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ConfigError, match="There is no prompt file at") as caught:
            read(path)
        assert str(path) in str(caught.value)


PACKED = gzip.compress(LINES.encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.jsonl.gz", LINES.encode()),
        ("cut.jsonl.gz", PACKED[:-12]),
        ("garbled.jsonl.gz", PACKED[:10] + b"\xff" * 20 + PACKED[30:]),
        ("latin.jsonl", "ö".encode("latin-1")),
        ("cut.json", LIST[:-3].encode()),
        ("no.parquet", b"PAR1 or so"),
    ],
    ids=["plain", "cut", "garbled", "latin", "cut list", "no parquet"],
)
def test_a_damaged_file_is_named(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{name}(, line 1,)? cannot be read: .*Give JSON lines, JSON or Parquet"):
        read(tmp_path / name)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2\n{"a": 3}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 3, is no JSON: .*Give one object a line"):
        read(path)
