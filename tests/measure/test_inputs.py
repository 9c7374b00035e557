"""Digests of what a run worked on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from specdec.measure.inputs import inputs
from specdec.prompts import PromptRecord

PROMPTS = [PromptRecord("1", "greeting", "Hello")]


def sha256(path: Path) -> str:
    """By another program."""
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    return done.stdout.lstrip("\\").split()[0]


def test_data_and_weights_have_the_digests_of_their_files(tmp_path: Path) -> None:
    for name, content in (("model.safetensors", b"w" * 100_000), ("config.json", b"{}"), ("data.jsonl", b"rows")):
        (tmp_path / name).write_bytes(content)
    store = tmp_path / "texts.store"
    store.write_bytes(b"texts")
    values = {
        "target": {"path": str(tmp_path)},
        "drafter": {"_target_": "x.Y", "store": str(store), "num_draft_tokens": 3, "draft": "no/where/at/all"},
        "data": {"path": str(tmp_path / "data.jsonl")},
    }
    told = inputs(values, PROMPTS)
    assert told["weights"] == {
        "target.path": {"model.safetensors": sha256(tmp_path / "model.safetensors")},
        "drafter.store": {"texts.store": sha256(store)},
    }
    assert told["data"]["file"] == sha256(tmp_path / "data.jsonl")
    assert told["data"]["prompts"] == 1


def test_a_file_that_changed_has_another_digest(tmp_path: Path) -> None:
    values = {"target": {"path": str(tmp_path)}, "drafter": {}, "data": {}}
    weights = tmp_path / "model.safetensors"
    found = []
    for content in (b"one", b"three"):
        weights.write_bytes(content)
        found.append(inputs(values, PROMPTS)["weights"]["target.path"]["model.safetensors"])
    assert found[0] != found[1] == sha256(weights)
