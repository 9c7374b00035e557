"""Medusa heads against their formula, one row at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from specdec.errors import ConfigError
from specdec.heads.medusa import MedusaHead
from tests.heads import toys
from tests.heads.reference import silu

SIZES = {"medusa_heads": 3, "taps": (5,), "num_layers": 2}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("known", [20, 50])
def test_every_head_is_its_formula(own: bool, bias: bool, known: int) -> None:
    config = toys.config("medusa", **SIZES, own_output=own, fc_bias=bias, draft_vocab_size=known)
    head = toys.drawn(MedusaHead(config, toys.draft_ids(config)))
    output = torch.randn(50, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    head.bind(output, output)
    w, (taps, _) = toys.weights(head), toys.text(config, 2, 3)
    with torch.no_grad():
        got = head(taps).numpy()
    assert got.shape == (2, 3, 3, known)
    for b, s, i in np.ndindex(2, 3, 3):
        x = taps[b, s, 0].numpy()
        for layer in range(2):
            x = x + silu(w[f"blocks.{i}.layers.{layer}.weight"] @ x + w.get(f"blocks.{i}.layers.{layer}.bias", 0.0))
        rows = w[f"lm_heads.{i}.weight"] if own else output.numpy()[head.draft_ids.numpy()]
        np.testing.assert_allclose(got[b, s, i], rows @ x, rtol=0, atol=1e-12)


def test_heads_share_no_block_and_begin_as_the_targets_own_head() -> None:
    config = toys.config("medusa", **SIZES, own_output=True, fc_bias=True, draft_vocab_size=50)
    head = MedusaHead(config).double()
    output = torch.randn(50, 24, dtype=torch.float64)
    head.start_from(SimpleNamespace(head=output))  # type: ignore[arg-type]
    taps, _ = toys.text(config, 1, 2)
    torch.testing.assert_close(head(taps), (taps @ output.T).expand(-1, -1, 3, -1))
    assert len({weight.data_ptr() for weight in head.parameters()}) == len(list(head.parameters())) == 3 * (2 * 2 + 1)


def test_heads_that_read_something_else_are_refused() -> None:
    for options in ({"medusa_heads": 0}, {"taps": (4,)}, {"taps": (4, 5)}, {"own_embedding": True}):
        with pytest.raises(ConfigError, match="Medusa heads"):
            MedusaHead(toys.config("medusa", **(SIZES | {"draft_vocab_size": 50} | options)))
