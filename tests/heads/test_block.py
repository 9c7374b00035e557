"""Block heads: against plain loops in float64, and against a target whose layer they copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from specdec.errors import ConfigError
from specdec.heads.block import TOGETHER, BlockHead
from specdec.heads.config import HeadConfig
from specdec.models.llama import LlamaWeights
from specdec.testing.tiny import llama_module
from tests.heads import reference, toys

TOLERANCE = 1e-6
"""A frequency may differ in its last float32 bit between numpy and torch: 5e-7 of a turn at position 9."""
DSPARK = {"block_size": 4, "markov_rank": 6, "confidence": True}
CASES: dict[str, dict[str, Any]] = {
    "DFlash": {"block_size": 4, "anchor_predicts": False, "qk_norm": True, "draft_vocab_size": 50},
    "DSpark": {**DSPARK, "qk_norm": True},
    "causal": {**DSPARK, "causal": True, "fc_norm": True},
    "causal, all tokens": {**DSPARK, "causal": True, "draft_vocab_size": 50, "num_layers": 1},
    "one row": {**DSPARK, "block_size": 1, "confidence_with_markov": False, "qkv_bias": True},
    "other width": {**DSPARK, "target_hidden_size": 18, "head_dim": 10, "num_kv_heads": 1},
    "no Markov term": {**DSPARK, "markov_rank": 0, "causal": True},
}


def made(**options: Any) -> BlockHead:
    config = toys.config("block", **options)
    head = toys.drawn(BlockHead(config, toys.draft_ids(config)))
    assert isinstance(head, BlockHead)
    return head


def rows_of(head: BlockHead, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (head.config.vocab_size, head.config.hidden_size)
    embedding, output = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    head.bind(embedding, output)
    return embedding, output


@pytest.mark.parametrize("case", CASES)
def test_every_block_is_that_of_plain_loops(case: str) -> None:
    """At the text's start, where there is no context; at its end, where no tokens follow; and in between."""
    head = made(**CASES[case])
    embedding, output = rows_of(head)
    taps, tokens = toys.text(head.config, 2, 9)
    anchors = torch.tensor([[0, 1, 5, 5, 8], [8, 3, 2, 1, 7]])
    with torch.no_grad():
        got = head(taps, tokens, anchors, torch.ones_like(anchors, dtype=torch.bool))
    assert got.logits.shape == (2, 5, head.config.num_drafted, head.config.draft_vocab_size)
    for b, a in np.ndindex(*anchors.shape):
        hidden, logits, confidence = reference.block(
            toys.weights(head), head.config, embedding.numpy(), toys.shared(head, output),
            taps[b].numpy(), tokens[b].numpy(), int(anchors[b, a]),
        )  # fmt: skip
        np.testing.assert_allclose(got.hidden[b, a], hidden, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(got.logits[b, a], logits, rtol=0, atol=TOLERANCE)
        if head.config.confidence:
            np.testing.assert_allclose(got.confidence[b, a], 1 / (1 + np.exp(-confidence)), rtol=0, atol=TOLERANCE)
        else:
            assert got.confidence is None


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_are_blind_to_one_another_and_to_what_follows(causal: bool) -> None:
    """More anchors than are attended together; whatever other blocks, later states, later tokens or padding say."""
    head = made(**DSPARK, causal=causal)
    taps, tokens = toys.text(head.config, 1, 60)
    anchors = torch.randint(0, 60, (1, 2 * TOGETHER + 3), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(anchors, dtype=torch.bool)
    with torch.no_grad():
        together = head.draft_states(taps, tokens, anchors, mask, head.config.num_drafted)
        for a in (0, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 2):
            at = int(anchors[0, a])
            spoiled, strange = taps.clone(), tokens.clone()
            spoiled[:, at:], strange[:, at + 1 :] = 1e3, 0
            alone = head.draft_states(spoiled, strange, anchors[:, a : a + 1], mask[:, :1], head.config.num_drafted)
            torch.testing.assert_close(alone[:, 0], together[:, a], rtol=0, atol=1e-12)


def test_a_block_behind_five_thousand_tokens_is_that_of_plain_loops() -> None:
    """A position that is off by one, or cut at a table's end, shows in long texts alone."""
    head = made(**DSPARK, causal=True, num_layers=1)
    embedding, output = rows_of(head)
    taps, tokens = toys.text(head.config, 1, 5001)
    with torch.no_grad():
        got = head(taps, tokens, torch.tensor([[5000]]), torch.tensor([[True]]))
    _, logits, _ = reference.block(
        toys.weights(head), head.config, embedding.numpy(), toys.shared(head, output), taps[0].numpy(),
        tokens[0].numpy(), 5000,
    )  # fmt: skip
    np.testing.assert_allclose(got.logits[0, 0], logits, rtol=0, atol=TOLERANCE)


def test_a_copy_of_a_one_layer_target_gives_the_targets_logits() -> None:
    """The context is made of the same states as the target's keys and values, and the anchor is embedded alike: so the
    anchor's row is the target's own, if taps, norms, residual, positions and mask are right."""
    module = llama_module(num_layers=1).double()
    config = HeadConfig.like(module.config, "block", taps=(0,), block_size=3, causal=True, markov_rank=4)
    head = BlockHead(config).double()
    head.start_from(LlamaWeights.of(module, "tiny"))
    head.bind(module.get_input_embeddings().weight, module.get_output_embeddings().weight)
    tokens = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = module(tokens, output_hidden_states=True)
        anchors = torch.arange(40).expand(2, -1)
        got = head(own.hidden_states[0][:, :, None], tokens, anchors, torch.ones_like(anchors, dtype=torch.bool))
    torch.testing.assert_close(got.logits[:, :, 0], own.logits, rtol=0, atol=1e-4)


def test_a_head_that_starts_from_its_target_has_gradients_everywhere_but_below_a_zero() -> None:
    """W1 learns once W2 is no longer zero, and the norm of a tap once fc reads it."""
    module = llama_module(num_layers=3)
    config = HeadConfig.like(module.config, "block", num_layers=2, taps=(1, 2), **DSPARK, causal=True, fc_norm=True)
    head = BlockHead(config)
    head.start_from(LlamaWeights.of(module, "tiny"))
    head.bind(module.get_input_embeddings().weight, module.get_output_embeddings().weight)
    taps, tokens = toys.text(config, 2, 12)
    anchors = torch.tensor([[3, 4], [5, 6]])
    out = head(taps.float(), tokens, anchors, torch.ones_like(anchors, dtype=torch.bool))
    assert out.confidence is not None
    (out.logits.logsumexp(-1).sum() + out.confidence.sum()).backward()
    silent = {name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert silent == {"markov_head.markov_w1.weight", "fc_norm.0.weight"}
    assert bool((out.confidence == 0.5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_under_autocast_is_close_to_float64(dtype: torch.dtype) -> None:
    head = made(**DSPARK, causal=True, qk_norm=True)
    taps, tokens = toys.text(head.config, 2, 12)
    anchors = torch.tensor([[3, 4], [5, 6]])
    mask = torch.ones_like(anchors, dtype=torch.bool)
    with torch.no_grad():
        exact = head(taps, tokens, anchors, mask).logits
        head.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            got = head(taps.float(), tokens, anchors, mask).logits
    assert float((got.double() - exact).abs().max()) < (1e-4 if dtype == torch.float32 else 0.3)


def test_a_head_that_cannot_draft_is_refused() -> None:
    for options, words in (
        ({"block_size": 1, "anchor_predicts": False}, "drafts nothing"),
        ({"num_layers": 0}, "drafts nothing"),
        ({"taps": (2, 1, 5)}, "increasing boundaries from 0 to 5"),
        ({"taps": (6,)}, "increasing boundaries"),
        ({"mask_token_id": 50}, "mask_token_id=50"),
        ({"num_heads": 3}, "multiple of num_kv_heads=2"),
        ({"block_size": 0}, "block_size = 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            made(**(DSPARK | options))


@pytest.mark.parametrize("ids", [[3, 2], [2, 2], [-1, 2], [2, 50], [2]], ids=str)
def test_a_draft_vocabulary_that_is_no_increasing_list_is_refused(ids: list[int]) -> None:
    with pytest.raises(ConfigError, match="2 increasing token ids below 50"):
        BlockHead(toys.config("block", draft_vocab_size=2), torch.tensor(ids))


def test_what_is_shared_must_be_bound_and_fit() -> None:
    config = toys.config("block", draft_vocab_size=50, **DSPARK)
    head = BlockHead(config)
    with pytest.raises(ConfigError, match="bind"):
        head.embed(torch.tensor([1]))
    with pytest.raises(ConfigError, match=r"embedding and needs \[50, 24\], got \[50, 23\]"):
        head.bind(torch.zeros(50, 23), torch.zeros(50, 24))


def test_a_configuration_survives_json() -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    config = toys.config("block", **DSPARK, rope_scaling=scaling)
    assert HeadConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="'colour' is not a setting"):
        HeadConfig.from_json({**config.to_json(), "colour": 1})
    with pytest.raises(ConfigError, match="not complete"):
        HeadConfig.from_json({"architecture": "block"})
