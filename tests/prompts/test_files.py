"""Files of rows: every kind that is read, and every kind of damage."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specdec import ConfigError
from specdec.prompts import files, load_prompts
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
        ("x.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("x.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()),
        ("x.json", b"\xef\xbb\xbf" + LIST.replace("\n", "\r\n").encode()),
        ("x.json", b"\n \n\n" + LIST.encode()),
        ("x.json.gz", gzip.compress(b"\xef\xbb\xbf" + LIST.encode(), mtime=0)),
    ],
    ids=[
        "lines",
        "lines, gzipped",
        "list",
        "list, gzipped",
        "lines named as a list",
        "lines with a mark",
        "lines of another system",
        "a list of another system",
        "a list after blank lines",
        "a list with a mark, gzipped",
    ],
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
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 3, is not JSON: .*Give one object a line"):
        read(path)


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, "9" * 5000, "{" * 1000, "\x00", '{"a": 1', "nul"],
    ids=["deep", "long number", "braces", "zero", "cut", "word"],
)
def test_a_line_that_no_reader_takes_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 2, is not JSON: .*Give one object a line"):
        read(path)
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.jsonl"):
        read(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for reader in (read, load_prompts):
        with pytest.raises(ConfigError, match=r"pipe\.jsonl is no regular file"):
            reader(tmp_path / "pipe.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.json.gz", "x.parquet"])
def test_a_file_beyond_all_bounds_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "a" * 50, "n": number} for number in range(200)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    data = lines if "jsonl" in name else json.dumps(rows)
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    assert read(tmp_path / name) == rows
    monkeypatch.setattr(files, "LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"is larger than a prompt file may be.*Give a part of it"):
        read(tmp_path / name)


def of_size(size: int) -> bytes:
    """One row as a line of so many bytes, its end included."""
    return b'{"text": "' + b"a" * (size - 13) + b'"}\n'


def test_the_bounds_are_those_that_a_message_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line and a file of that size are read, and none with one byte more."""
    path = tmp_path / "x.jsonl"
    monkeypatch.setattr(files, "LONGEST_LINE", 40)
    monkeypatch.setattr(files, "LARGEST", 100)
    for good in (of_size(40), of_size(40) * 2 + of_size(20)):
        path.write_bytes(good)
        assert len(read(path)) == good.count(b"\n")
    for bad, line in ((of_size(41), 1), (of_size(20) + of_size(41), 2), (of_size(40) * 2 + of_size(21), 3)):
        path.write_bytes(bad)
        with pytest.raises(ConfigError, match=rf"line {line}, is larger"):
            read(path)
    listed = b"[" + of_size(40) + b"," + of_size(40)
    for end, good in ((b"]".rjust(100 - len(listed)), True), (b"]".rjust(101 - len(listed)), False)):
        (tmp_path / "x.json").write_bytes(listed + end)
        if good:
            assert len(read(tmp_path / "x.json")) == 2
        else:
            with pytest.raises(ConfigError, match="is larger"):
                read(tmp_path / "x.json")
    (tmp_path / "text").write_bytes(b"a" * 40)
    assert files.read_text(tmp_path / "text", "prompt") == "a" * 40
    (tmp_path / "text").write_bytes(b"a" * 41)
    with pytest.raises(ConfigError, match=r"prompt: .* is larger"):
        files.read_text(tmp_path / "text", "prompt")


def test_a_message_names_the_bounds_in_mebibytes(tmp_path: Path) -> None:
    with (tmp_path / "x.jsonl").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ConfigError, match=r"\(64 MiB a line, 1024 MiB unpacked\)"):
        read(tmp_path / "x.jsonl")


def test_a_parquet_file_of_the_largest_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    size = (tmp_path / "x.parquet").stat().st_size
    monkeypatch.setattr(files, "LARGEST", size)
    assert read(tmp_path / "x.parquet") == ROWS
    monkeypatch.setattr(files, "LARGEST", size - 1)
    with pytest.raises(ConfigError, match="is larger"):
        read(tmp_path / "x.parquet")


def test_a_file_in_one_endless_line_is_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of four gigabytes."""
    with (tmp_path / "x.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.truncate(4 << 30)
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 20)
    with pytest.raises(ConfigError, match=r"line 1, is larger than a prompt file may be"):
        read(tmp_path / "x.jsonl")
    with pytest.raises(ConfigError, match="is larger than a prompt file may be"):
        files.read_text(tmp_path / "x.jsonl", "prompt")


def test_a_missing_file_is_answered_with_the_nearest_folder_and_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"The nearest folder that exists is {tmp_path / 'data'}\."):
        read(tmp_path / "data" / "more" / "x.jsonl")
    with pytest.raises(ConfigError, match=rf"Did you mean {tmp_path / 'data' / 'prompts.jsonl'}\?"):
        read(tmp_path / "data" / "prompt.jsonl")
    with pytest.raises(ConfigError, match="The quotes are part of the path"):
        read(tmp_path / "'prompts.jsonl'")
    with pytest.raises(ConfigError, match=rf"Did you mean {tmp_path / 'data'}\?"):
        read(tmp_path / "dat" / "prompts.jsonl")
