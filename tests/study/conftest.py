"""A target of a millisecond a pass, with a real tokenizer, in a folder as users have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import AutoTokenizer

from specdec.commands.application import config_dir
from specdec.models.sources import embedded_folder
from specdec.study.config import register
from tests.tiny import llama_module

PROMPTS = [
    ("a", "colours", "red green red green red green"),
    ("b", "colours", "blue blue blue blue blue"),
    ("c", "counting", "one two three one two three one"),
    ("d", "counting", "five six seven five six"),
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and tokenizer."""
    folder = tmp_path_factory.mktemp("target")
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    llama_module(vocab_size=len(tokenizer), hidden_size=16, num_layers=30).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts of two categories."""
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    rows = [{"question_id": i, "category": category, "prompt": prompt} for i, category, prompt in PROMPTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tiny_folder: Path, prompt_file: Path, tmp_path: Path) -> list[str]:
    """Overrides for a job on them, below `tmp_path`."""
    return [
        f"target.path={tiny_folder}",
        f"data.path={prompt_file}",
        f"runs={tmp_path / 'runs'}",
        "sampling.max_tokens=12",
        "sampling.ignore_eos=true",
        "engine.num_blocks=256",
        "profile=false",
        "device.threads=1",
    ]


@pytest.fixture
def composed(tiny: list[str]) -> Callable[..., DictConfig]:
    """Overrides → a benchmark's configuration."""

    def compose_with(*overrides: str) -> DictConfig:
        register()
        with initialize_config_dir(config_dir(), version_base=None):
            return compose("study", [*tiny, *overrides], return_hydra_config=False)

    return compose_with
