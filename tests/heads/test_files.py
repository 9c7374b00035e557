"""Heads in folders of our own layout: what is written is read back, and what cannot be true is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.config import TargetSizes
from specdec.heads.files import ARCHITECTURES, load_head, save_head
from tests.heads import toys

OPTIONS: dict[str, Any] = {
    "block_size": 4, "markov_rank": 6, "confidence": True, "causal": True, "fc_norm": True, "target_hidden_size": 18,
}  # fmt: skip
FITS = TargetSizes(num_layers=5, hidden_size=18, vocab_size=50)


def made(**options: Any) -> Head:
    config = toys.config("block", **(OPTIONS | options))
    return toys.drawn(BlockHead(config, toys.draft_ids(config))).float()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "block": ("block", OPTIONS),
    "all tokens": ("block", OPTIONS | {"draft_vocab_size": 50}),
    "rows of its own": ("block", OPTIONS | {"own_output": True, "own_embedding": True}),
    "eagle1": ("eagle1", {"num_layers": 1, "taps": (5,), "fc_bias": True}),
    "eagle3": ("eagle3", {"num_layers": 1, "norm_before_fc": True, "qkv_bias": True, "target_hidden_size": 18}),
    "medusa": ("medusa", {"medusa_heads": 2, "taps": (5,), "own_output": True}),
    "medusa, shared": ("medusa", {"medusa_heads": 2, "taps": (5,), "fc_bias": True}),
    "mtp": ("mtp", {"num_layers": 1, "taps": (5,), "qk_norm": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    architecture, options = KINDS[kind]
    config = toys.config(architecture, **options)
    head = toys.drawn(ARCHITECTURES[architecture](config, toys.draft_ids(config))).float()
    save_head(head, tmp_path, note={"made by": "a test"})
    again = load_head(tmp_path, TargetSizes(5, config.target_hidden_size, 50))
    assert again.config == head.config
    assert not again.training
    mine, its = head.state_dict(), again.state_dict()
    assert list(mine) == list(its)
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert json.loads((tmp_path / "config.json").read_text())["note"] == {"made by": "a test"}


@pytest.mark.parametrize(("weights", "share"), [("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_rounded_weights_are_as_near_as_their_form_allows(weights: Any, share: float, tmp_path: Path) -> None:
    """bfloat16 rounds each number by at most 2^-9 of itself; int8 by half a step of its row's largest number / 127."""
    head = made()
    save_head(head, tmp_path, weights=weights)
    again = dict(load_head(tmp_path, FITS).named_parameters())
    for name, weight in head.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(weight, again[name])
        else:
            assert bool(((weight - again[name]).abs() <= share * weight.abs().amax(1, keepdim=True) * 1.001).all())


def test_int8_takes_a_byte_a_number(tmp_path: Path) -> None:
    head = made()
    numbers = sum(weight.numel() for weight in head.parameters())
    save_head(head, tmp_path, weights="int8")
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values() if tensor.dtype == torch.int8) > 0.9 * numbers
    zero = made()
    torch.nn.init.zeros_(zero.fc.weight)
    save_head(zero, tmp_path, weights="int8")
    assert not load_head(tmp_path).fc.weight.any()


def change(folder: Path, **new: Tensor | None) -> None:
    """Tensors of a saved head, replaced or removed."""
    path = folder / "model.safetensors"
    tensors = {name: new.get(name.replace(".", "__"), tensor) for name, tensor in load_file(path).items()}
    tensors |= {name: tensor for name, tensor in new.items() if "__" not in name}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, path)


def set_field(folder: Path, name: str, value: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["head"][name] = value
    (folder / "config.json").write_text(json.dumps(settings))


NAN = torch.full((24, 54), float("nan"))
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: change(folder, fc__weight=None), r"the tensor 'fc.weight' is missing"),
    "left over": (lambda folder: change(folder, more=torch.zeros(2)), r"the tensor 'more' has no place"),
    "shape": (lambda folder: change(folder, fc__weight=torch.zeros(3, 3)), r"fc.weight has the shape \[3, 3\]"),
    "NaN": (lambda folder: change(folder, fc__weight=NAN), "fc.weight holds NaN"),
    "integers": (lambda folder: change(folder, fc__weight=NAN.long()), "fc.weight holds torch.int64"),
    "int8 without scales": (lambda folder: change(folder, fc__weight=NAN.to(torch.int8)), "not one scale"),
    "no ids": (lambda folder: change(folder, draft_ids=None), "needs draft_ids"),
    "ids not increasing": (lambda folder: change(folder, draft_ids=torch.arange(20).flip(0)), "increasing token ids"),
    "ids too large": (lambda folder: change(folder, draft_ids=torch.arange(20) + 31), "below 50"),
    "too few ids": (lambda folder: change(folder, draft_ids=torch.arange(19)), "must be 20"),
    "ids that are none": (lambda folder: change(folder, draft_ids=torch.arange(20.0)), "torch.float32"),
    "unknown field": (lambda folder: set_field(folder, "colour", 1), "'colour' is not a setting"),
    "field that cannot be": (lambda folder: set_field(folder, "num_layers", -1), "num_layers = -1"),
    "large": (lambda folder: set_field(folder, "intermediate_size", 2**20), "asks for"),
    "enormous": (lambda folder: set_field(folder, "intermediate_size", 2**23), "more than any model has"),
    "architecture": (lambda folder: set_field(folder, "architecture", "oracle"), "'oracle', not one of block"),
    "version": (lambda folder: (folder / "config.json").write_text('{"specdec_head": 7}'), "of version 7"),
    "no settings": (lambda folder: (folder / "config.json").write_text('{"specdec_head": 1}'), "nothing of 'head'"),
    "no layout": (lambda folder: (folder / "config.json").write_text("{}"), "of no layout that is known"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    "cut short": (lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-1]), "Copy the file again"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    spoil, words = BROKEN[case]
    save_head(made(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(UnsupportedModelError, match=words) as refused:
        load_head(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (TargetSizes(6, 18, 50), "layers 5, not 6"),
        (TargetSizes(5, 24, 50), "width 18, not 24"),
        (TargetSizes(5, 18, 51), "vocabulary of 50, not 51"),
    ],
)
def test_a_head_of_another_target_is_refused(target: TargetSizes, words: str, tmp_path: Path) -> None:
    save_head(made(), tmp_path)
    with pytest.raises(UnsupportedModelError, match=words):
        load_head(tmp_path, target)


def test_pickled_weights_are_read_only_if_they_are_named(tmp_path: Path) -> None:
    """And never run: an object in them is refused."""
    head = made()
    save_head(head, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(stored, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="pickled"):
        load_head(tmp_path)
    again = load_head(tmp_path, pickled="pytorch_model.bin")
    assert torch.equal(again.fc.weight, head.fc.weight)
    torch.save({"fc.weight": Path("/")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="Cannot read"):
        load_head(tmp_path, pickled="pytorch_model.bin")


def test_what_a_layout_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown format 'dslack'"):
        save_head(made(), tmp_path, format="dslack")
    with pytest.raises(ConfigError, match="Unknown form of weights 'int4'"):
        save_head(made(), tmp_path, weights="int4")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
