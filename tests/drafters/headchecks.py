"""What is checked of every kind of head that drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.base import Drafter, DraftRequest
from specdec.engine import Engine, EngineConfig
from specdec.heads.base import Head
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from specdec.policy.base import Policy
from specdec.randomness import RandomSource
from specdec.verify.tree import DraftTree
from tests.engines import outputs, run

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 4], [*range(30)]]
GREEDY, WARM = SamplingParams(max_tokens=20), SamplingParams(max_tokens=20, temperature=0.9, seed=5)
SIZES = EngineConfig(block_size=4, num_blocks=256, max_batch_tokens=128, max_num_seqs=4)
TARGETS: dict[str, Callable[[Any], CausalLM]] = {"native": NativeModel, "transformers": TransformersModel}
every_target = pytest.mark.parametrize("made", TARGETS.values(), ids=TARGETS)
every_way = pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        replace(GREEDY, repetition_penalty=1.5, presence_penalty=0.7, bad_words=[[3], [8], [20]]),
        WARM,
        replace(WARM, temperature=0.5, top_k=7, logit_bias={3: 4.0}),
    ],
    ids=["greedy", "greedy, edited", "warm", "warm, edited"],
)


def engine(
    target: CausalLM, drafter: Drafter, rule: str = "auto", policy: Policy | None = None, **sizes: int
) -> Engine:
    return Engine(target, drafter, rule, replace(SIZES, **sizes), policy=policy)


def texts(target: CausalLM, drafter: Drafter, params: SamplingParams = GREEDY, **options: Any) -> list[list[int]]:
    return outputs(run(engine(target, drafter, **options), PROMPTS, params))


def drafts_of(drafter: Drafter) -> list[DraftTree]:
    """All that it will propose."""
    found: list[DraftTree] = []
    _watch(drafter, lambda requests, trees: found.extend(trees))
    return found


def told(drafter: Drafter) -> list[tuple[tuple[int, ...], DraftTree]]:
    """The same, each with the text before it."""
    found: list[tuple[tuple[int, ...], DraftTree]] = []

    def see(requests: Sequence[DraftRequest], trees: list[DraftTree]) -> None:
        found.extend((tuple(each.tokens), tree) for each, tree in zip(requests, trees, strict=True))

    _watch(drafter, see)
    return found


def _watch(drafter: Drafter, see: Callable[[Sequence[DraftRequest], list[DraftTree]], object]) -> None:
    propose = drafter.propose

    def seen(requests: Sequence[DraftRequest]) -> list[DraftTree]:
        trees = propose(requests)
        see(requests, trees)
        return trees

    drafter.propose = seen  # type: ignore[method-assign]


def deaf_at_first(drafter: Drafter) -> Callable[[], int]:
    """It is not told of the first pass. Returns what says of how many passes it would have been."""
    observe, heard = drafter.observe, 0

    def hear(outcomes: Any) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            observe(outcomes)

    drafter.observe = hear  # type: ignore[method-assign]
    return lambda: heard


def chance_of(logits: torch.Tensor, place: int, token_ids: Sequence[int], params: SamplingParams, at: int) -> float:
    """The chance of one of a head's tokens: the softmax of its logits and of the noise that the target's draw adds.

    Args:
        logits: float64 [Vd], of the head's modules.
        place: of the token among them.
        token_ids: which of the target's tokens they are.
        params: of the request, with a seed if it draws.
        at: position of the token in the text.
    """
    if params.temperature:
        assert params.seed is not None
        noise = RandomSource(params.seed).gumbel(at, 1 + max(token_ids))
        logits = logits + params.temperature * noise[list(token_ids)]
    return float(logits.softmax(-1)[place])


every_noise = pytest.mark.parametrize("params", [GREEDY, WARM], ids=["greedy", "warm"])


def check_knows_only(head: Head, drafts: list[DraftTree], params: SamplingParams) -> None:
    """Drafts have the head's tokens alone, and q, which only warm ones have, is zero elsewhere."""
    known = set(head.draft_ids.tolist())
    assert {token for tree in drafts for token in tree.tokens} <= known
    assert all((tree.q is None) == (params is not WARM) for tree in drafts if len(tree))
    for tree in drafts:
        if tree.q is not None:
            assert not bool(tree.q[:, [token for token in range(64) if token not in known]].any())
            assert torch.allclose(tree.q.sum(1), torch.ones(len(tree.q)))
