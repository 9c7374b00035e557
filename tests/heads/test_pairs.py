"""Heads that draft token by token: against drafts in plain float64 loops, step by step with caches, and as a copy of a
target's layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.heads.config import HeadConfig
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.files import ARCHITECTURES
from specdec.heads.pairs import PairHead
from specdec.models.llama import LlamaWeights
from specdec.testing.tiny import llama_module
from tests.heads import reference, toys
from tests.heads.test_block import TOLERANCE
from tests.models.bench import LLAMA, make_module, rope

LAST = {"taps": (5,)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "EAGLE-3": ("eagle3", {}),
    "EAGLE-3.1": ("eagle3", {"fc_norm": True, "norm_output": True, "qk_norm": True}),
    "one norm before fc": (
        "eagle3", {"norm_before_fc": True, "norm_before_residual": True, "fc_bias": True, "qkv_bias": True}),
    "other width": (
        "eagle3", {"target_hidden_size": 18, "head_dim": 16, "num_kv_heads": 4, "draft_vocab_size": 50}),
    "EAGLE-1": ("eagle1", LAST | {"fc_bias": True}),
    "EAGLE-1, no bias": ("eagle1", LAST | {"num_kv_heads": 4, "draft_vocab_size": 50}),
    "MTP": ("mtp", LAST | {"qk_norm": True}),
}  # fmt: skip


def made(kind: str, options: dict[str, Any]) -> tuple[PairHead, Tensor, Tensor]:
    """A head, and the embedding and output rows of its target."""
    config = toys.config(kind, num_layers=1, **options)
    head = toys.drawn(ARCHITECTURES[kind](config, toys.draft_ids(config)))
    assert isinstance(head, PairHead)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(50, config.hidden_size, generator=generator, dtype=torch.float64) for _ in range(2)]
    head.bind(*rows)
    return head, rows[0], rows[1]


@pytest.mark.parametrize("case", CASES)
def test_the_training_time_test_gives_what_drafts_of_plain_loops_give(case: str) -> None:
    """At every position of two texts, four steps deep."""
    head, embedding, output = made(*CASES[case])
    taps, tokens = toys.text(head.config, 2, 7)
    with torch.no_grad():
        got = head(taps, tokens, 4)
    for b in range(2):
        loops = getattr(reference, CASES[case][0])
        hidden = loops(toys.weights(head), head.config, embedding.numpy(), taps[b].numpy(), tokens[b].numpy(), 4)
        np.testing.assert_allclose(got.hidden[:, b], hidden, rtol=0, atol=TOLERANCE)
        logits = hidden @ output.numpy()[head.draft_ids.numpy()].T
        np.testing.assert_allclose(got.logits[:, b], logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_steps_with_a_cache_give_the_whole_at_once(case: str) -> None:
    """The committed pairs one by one or in pieces; then a draft, whose keys and values are dropped again."""
    head, *_ = made(*CASES[case])
    taps, tokens = toys.text(head.config, 1, 11)
    with torch.no_grad():
        whole, state = head.unrolled(taps, tokens, 3), head.fuse(taps[:, :-1])
        past = (torch.zeros(1, 0, head.config.num_kv_heads, head.config.head_dim, dtype=torch.float64),) * 2
        for first, last in ((0, 3), (3, 4), (4, 7)):
            places = torch.arange(first, last)[None]
            done = head.step(state[:, first:last], tokens[:, first + 1 : last + 1], places, past)
            torch.testing.assert_close(done.hidden, whole[0, :, first:last], rtol=0, atol=1e-12)
            past = tuple(torch.cat(pair, 1) for pair in zip(past, done.held, strict=True))
            draft, drafted = past, done
            for k in (1, 2):
                at = last - 1 + k
                drafted = head.step(drafted.state[:, -1:], tokens[:, at + 1 : at + 2], torch.tensor([[at]]), draft)
                draft = tuple(torch.cat(pair, 1) for pair in zip(draft, drafted.held, strict=True))
                torch.testing.assert_close(drafted.hidden, whole[k, :, last - 1 : last], rtol=0, atol=1e-12)


def copied(module: Any) -> Eagle3Head:
    """A head that reads the streams before all layers and is the last one."""
    layers = module.config.num_hidden_layers
    head = Eagle3Head(HeadConfig.like(module.config, "eagle3", taps=tuple(range(layers)))).double()
    head.start_from(LlamaWeights.of(module, "tiny"))
    head.bind(module.get_input_embeddings().weight, module.get_output_embeddings().weight)
    return head


ORIGINAL = {"original_max_position_embeddings": 16}
TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "linear": ("Llama", rope("linear", factor=4.0)),
    "llama3": ("Llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)),
    "yarn": ("Llama", rope("yarn", factor=8.0, **ORIGINAL)),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_copy_of_the_targets_last_layer_gives_the_targets_logits(name: str) -> None:
    """At every position: so taps, norms, residual, positions, rotation and mask are those of the target."""
    kind, options = TARGETS[name]
    module: Any = make_module(kind, LLAMA | options).double()
    tokens = torch.randint(LLAMA["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = module(tokens, output_hidden_states=True)
        got = copied(module)(torch.stack(own.hidden_states[:-1], 2), tokens, 1)
    torch.testing.assert_close(got.logits[0], own.logits[:, :-1], rtol=0, atol=1e-4)


def test_a_copy_gives_the_targets_logits_in_a_tree() -> None:
    """Rows of a tree at the positions of their depths, each seeing the prefix and its own ancestors."""
    module: Any = llama_module(num_layers=3).double()
    head = copied(module)
    prefix = torch.randint(64, (1, 12), generator=torch.Generator().manual_seed(0))
    tree, parents = [5, 9, 11, 5, 7], [-1, 0, 0, 2, -1]
    paths: list[list[int]] = []
    for node, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    with torch.no_grad():
        rows = []
        for path in paths:  # the target reads each path by itself
            text = torch.cat([prefix, torch.tensor([[tree[node] for node in path]])], 1)
            own = module(text, output_hidden_states=True)
            rows.append((torch.stack(own.hidden_states[:3], 2)[:, -1], own.logits[:, -1]))
        own = module(prefix, output_hidden_states=True)
        past = head.step(head.fuse(torch.stack(own.hidden_states[:3], 2)), prefix, torch.arange(12)[None]).held
        visible = torch.zeros(1, 5, 17, dtype=torch.bool)
        visible[..., :12] = True
        for node, path in enumerate(paths):
            visible[0, node, [12 + one for one in path]] = True
        state = head.fuse(torch.stack([taps for taps, _ in rows], 1))
        depth = torch.tensor([[11 + len(path) for path in paths]])
        done = head.step(state, torch.tensor([tree]), depth, past, visible)
        torch.testing.assert_close(
            head.vocabulary_logits(done.hidden)[0], torch.cat([logits for _, logits in rows]), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("case", ["EAGLE-3.1", "EAGLE-1", "MTP"])
def test_every_weight_learns_from_the_training_time_test(case: str) -> None:
    head, *_ = made(*CASES[case])
    taps, tokens = toys.text(head.config, 2, 6)
    head(taps, tokens, 2).logits.logsumexp(-1).sum().backward()
    assert [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_a_head_that_is_none_is_refused() -> None:
    for options in ({"num_layers": 2}, {"fc_norm": True, "norm_before_fc": True}):
        with pytest.raises(ConfigError, match="one layer"):
            Eagle3Head(toys.config("eagle3", **({"num_layers": 1, "draft_vocab_size": 50} | options)))
    for kind, options in (("eagle1", {}), ("mtp", {"taps": (4,)}), ("mtp", LAST | {"target_hidden_size": 18})):
        with pytest.raises(ConfigError, match=f"kind '{kind}' has one layer, reads the last state"):
            ARCHITECTURES[kind](toys.config(kind, **({"num_layers": 1, "draft_vocab_size": 50} | options)))
