"""The law of a tiny target's texts, and whether texts follow it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch

from specdec.models.base import CausalLM
from specdec.proof.evidence import Evidence


def joint_law(target: CausalLM, prompt: Sequence[int], length: int) -> dict[tuple[int, ...], float]:
    """Every text of the target after a prompt → its probability, from the plain module in float64.

    Args:
        target: a `TransformersModel` over V tokens.
        prompt: token ids.
        length: tokens of a text; there are V**length of them.
    """
    module = target.module.double()  # type: ignore[attr-defined]
    own = module.config._attn_implementation
    module.set_attn_implementation("eager")
    listed = list(product(range(target.vocab_size), repeat=length))
    with torch.no_grad():
        logits = module(torch.tensor([[*prompt, *text] for text in listed]), use_cache=False).logits
    module.float().set_attn_implementation(own)
    p = torch.softmax(logits[:, len(prompt) - 1 : -1], -1)
    chosen = p.gather(-1, torch.tensor(listed)[..., None]).squeeze(-1).prod(-1)
    return dict(zip(listed, chosen.tolist(), strict=True))


def follows(texts: Sequence[Sequence[int]], law: dict[tuple[int, ...], float], error_rate: float) -> None:
    """Raises AssertionError if the first 1, 2, … tokens do not follow the law; wrongly in each case at this rate."""
    for n in range(1, len(next(iter(law))) + 1):
        beginnings: dict[object, float] = {}
        for whole, probability in law.items():
            beginnings[whole[:n]] = beginnings.get(whole[:n], 0.0) + probability
        evidence = Evidence(beginnings)
        for text in texts:
            evidence.add(tuple(text[:n]))
        assert not evidence.rejects(error_rate), f"the first {n} tokens of texts do not follow the target's law"
