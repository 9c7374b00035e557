"""`specdec head inspect`: what a head is, whether it fits, and one line if it is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from specdec import cli
from specdec.heads.block import BlockHead
from specdec.heads.files import save_head
from specdec.testing.tiny import llama_module
from tests.heads import published, toys
from tests.models.zoo import tokenizer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five layers of width 24, with 50 tokens."""
    folder = tmp_path_factory.mktemp("target")
    llama_module(vocab_size=50, num_layers=5, hidden_size=24).save_pretrained(folder)
    tokenizer(50).save_pretrained(folder)
    return folder


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["specdec", "head", "inspect", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def saved(folder: Path, **options: int) -> Path:
    config = toys.config("block", block_size=4, markov_rank=6, causal=True, fc_norm=True, **options)
    save_head(toys.drawn(BlockHead(config, toys.draft_ids(config))), folder, weights="int8", note={"by": "a\x1btest"})
    return folder


def test_a_head_is_told_and_fits(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(saved(tmp_path)), f"target.path={target}"], monkeypatch) == 0
    told = capsys.readouterr().out
    for words in (
        "layout specdec", "a?test", "block, 2 layers of width 24 (4 heads of 8, 2 KV heads), fc_norm",
        "before layer 1, before layer 2, the last norm (boundaries 1, 2, 5)", "20 of 50 tokens",
        "4 tokens from a block of 4 rows, causal, Markov term of rank 6, no confidence", "embedding and output rows",
    ):  # fmt: skip
        assert words in told
    assert told.splitlines()[-1].endswith("yes")


def test_a_head_of_another_target_is_told_and_why(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(saved(tmp_path, vocab_size=51)), f"target.path={target}"], monkeypatch) == 1
    assert "no: it is made for a target with a vocabulary of 51, not 50" in capsys.readouterr().out


def test_published_heads_are_told_by_their_layout(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {"eagle_aux_hidden_state_layer_ids": [1, 2, 4], "draft_vocab_size": 20}
    published.write(tmp_path / "e", published.SPECFORGE | listed, published.drawn(published.eagle3()))
    published.write(tmp_path / "m", published.MEDUSA, published.drawn(published.medusa()), "medusa_lm_head.safetensors")
    assert run([str(tmp_path / "e"), f"target.path={target}", "numbering=output"], monkeypatch) == 0
    assert run([str(tmp_path / "m"), f"target.path={target}"], monkeypatch) == 0
    told = capsys.readouterr().out
    for words in ("layout specforge", "boundaries 2, 3, 5", "token by token", "3, and 2 by its config.json"):
        assert words in told


def test_what_is_no_head_is_one_line(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, saved(tmp_path / "a") / "weights.bin")
    (tmp_path / "b").mkdir()
    for words, message in (
        (["nowhere"], "there is no such folder"),
        ([str(tmp_path / "b"), f"target.path={target}"], "No such file"),
        ([str(tmp_path / "a"), "numbering=odd"], "numbering = 'odd' cannot work"),
        ([str(tmp_path / "a"), f"target.path={target}", "pickled=weights.bin"], "needs draft_ids"),
    ):
        assert run(words, monkeypatch) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specdec: ")]
        assert message in line
