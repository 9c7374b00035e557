"""A model repository of the Triton Inference Server: configurations, and the programs behind them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.models.sources import local

MODELS = Path(__file__).parent / "models"
TARGET = """\
name: "target"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [
  { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
TOKENIZE = """\
name: "tokenize"
backend: "python"
max_batch_size: 1
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
DRAFTER = """\
name: "drafter"
backend: "python"
max_batch_size: 16
dynamic_batching { max_queue_delay_microseconds: 500 }
input [
  { name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] allow_ragged_batch: true },
  { name: "max_depth" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [
  { name: "draft_token_ids" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "draft_parents" data_type: TYPE_INT32 dims: [ -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
PROPOSE = """\
name: "propose"
platform: "ensemble"
max_batch_size: 1
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_depth" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [
  { name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "draft_token_ids" data_type: TYPE_INT32 dims: [ -1 ] }
]
ensemble_scheduling {
  step [
    {
      model_name: "tokenize"
      model_version: -1
      input_map { key: "text_input" value: "text_input" }
      output_map { key: "token_ids" value: "token_ids" }
    },
    {
      model_name: "drafter"
      model_version: -1
      input_map { key: "token_ids" value: "token_ids" }
      input_map { key: "max_depth" value: "max_depth" }
      output_map { key: "draft_token_ids" value: "draft_token_ids" }
    }
  ]
}
"""


def write(
    folder: Path, target: str | None = None, drafter: str = "served", served: str = "ngram", **options: Any
) -> None:
    """Writes the models `target`, `tokenize` and `drafter`, and `propose`, an ensemble of the last two.

    Args:
        folder: is made; models of these names that are there are replaced.
        target: as for `SpeculativeGenerator.from_pretrained`.
        drafter: the target's; "served" asks the model `drafter`.
        served: drafter in the model `drafter`.
        options: further arguments of `from_pretrained`; `config` has those of `EngineConfig`.
    """
    if target is not None and (place := local(target)) is not None:
        target = str(place.absolute())  # the server runs in another folder
    config = options.pop("config", {})
    settings = {"target": target, "drafter": drafter, "config": config, **options}
    _write(folder / "target", TARGET + parameters(settings), "target.py")
    _write(folder / "tokenize", TOKENIZE + parameters({"target": target}), "tokenizer.py")
    _write(folder / "drafter", DRAFTER + parameters({"target": target, "drafter": served, "options": {}}), "drafter.py")
    _write(folder / "propose", PROPOSE)


def parameters(settings: Mapping[str, Any]) -> str:
    """The part of a configuration that a model's program reads: `settings`, as JSON."""
    value = json.dumps(json.dumps(settings))
    return f'parameters [ {{ key: "settings" value {{ string_value: {value} }} }} ]\n'


def _write(folder: Path, config: str, program: str | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    if program is not None:
        shutil.copy(MODELS / program, version / "model.py")
