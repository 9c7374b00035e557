"""Reads what an offline wandb run has written: records of protocol buffers in the framing of LevelDB's log.

A file begins with seven bytes of its own. Then come blocks of 32 KiB; each fragment in them has a header of seven
bytes (checksum, length, kind) and never crosses a block's end. A record is one whole fragment, or a first, some middle
ones and a last one. (LevelDB, doc/log_format.md.)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC, BLOCK, HEADER = b":W&B", 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbFile:
    """What a run was told."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    artifacts: list[tuple[str, str, list[str]]] = field(default_factory=list)
    exit_code: int | None = None


def read(path: Path) -> WandbFile:
    """Every record of a `.wandb` file, by kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = WandbFile()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = {"name": record.run.display_name, "group": record.run.run_group, "project": record.run.project}
            found.config |= _items(record.run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "metric":
            found.metrics.append(record.metric.name or record.metric.glob_name)
        elif kind == "artifact":
            files = [entry.path for entry in record.artifact.manifest.contents]
            found.artifacts.append((record.artifact.name, record.artifact.type, files))
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    assert data.startswith(MAGIC)
    at, record = HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        record += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            yield record
            record = b""
        else:
            assert kind in (FIRST, MIDDLE), f"fragment of kind {kind} at byte {at}"
