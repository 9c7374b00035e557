"""The drafter that runs Medusa heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.head import HeadDrafter
from specdec.drafters.none import NoDrafter
from specdec.models.base import CausalLM
from specdec.models.native import NativeModel
from specdec.testing.tiny import llama_module
from tests.drafters.headchecks import (
    GREEDY,
    PROMPTS,
    WARM,
    chance_of,
    check_knows_only,
    deaf_at_first,
    drafts_of,
    engine,
    every_noise,
    every_target,
    texts,
    told,
)
from tests.engines import outputs, run
from tests.medusaheads import random_medusa

KINDS = pytest.mark.parametrize("options", [{}, {"own_output": True}, {"known": 1.0, "num_layers": 2}],
                                ids=["target's rows", "own rows", "all tokens"])  # fmt: skip


@every_target
@KINDS
@every_noise
@torch.no_grad()
def test_every_node_has_the_chance_that_the_modules_give_it_over_the_whole_text(
    made: Callable[[Any], CausalLM], options: dict[str, Any], params: SamplingParams
) -> None:
    """Head i on the state behind the last token but one, in float64: through prompts in pieces, drafts that are kept in
    part, and preemption. Logits of float32 are within 1e-4 of 100."""
    target, module = made(llama_module(0)), llama_module(0).double()
    head = random_medusa(target, **options)
    drafter = HeadDrafter(head, 4, 9, floor=0.0)
    drafted = told(drafter)
    requests = run(engine(target, drafter, num_blocks=26, max_batch_tokens=48), PROMPTS, params)
    assert sum(request.stats.preemptions for request in requests)
    head = head.double()
    head.bind(module.get_input_embeddings().weight, module.lm_head.weight)
    full = [(tokens, tree) for tokens, tree in drafted if len(tree)]
    assert max(tree.depth for _, tree in full) == 3
    for tokens, tree in full[:: max(1, len(full) // 8)]:
        last = module.model(torch.tensor([tokens])).last_hidden_state[0, len(tokens) - 2]
        logits, known = head(last[None, None, None])[0, 0], head.draft_ids.tolist()
        for node, (token, chance) in enumerate(zip(tree.tokens, tree.chances, strict=True)):
            depth = len(tree.prefix(node)) - 1
            wanted = chance_of(logits[depth], known.index(token), known, params, len(tokens) + depth)
            assert chance == pytest.approx(wanted, rel=1e-3)


@every_target
@pytest.mark.parametrize("rule", ["greedy", "gumbel"])
def test_random_heads_change_no_text(made: Callable[[Any], CausalLM], rule: str) -> None:
    target = made(llama_module(0))
    params, name = (GREEDY, "auto") if rule == "greedy" else (WARM, rule)
    drafter = HeadDrafter(random_medusa(target), choices=[[0, 0, 0], [0, 1], [1]])
    drafts = drafts_of(drafter)
    assert texts(target, drafter, params, rule=name) == texts(target, NoDrafter(), params, rule=name)
    assert any(map(len, drafts))


def test_drafts_have_only_tokens_that_the_heads_know_and_q_is_zero_elsewhere() -> None:
    target = NativeModel(llama_module(0))
    head = random_medusa(target, known=0.3)
    for params in (GREEDY, WARM, replace(GREEDY, repetition_penalty=1.3)):
        drafter = HeadDrafter(head)
        drafts = drafts_of(drafter)
        texts(target, drafter, params, rule="block")
        check_knows_only(head, drafts, params)


@every_target
def test_nothing_is_read_that_was_not_written_whatever_the_batch(made: Callable[[Any], CausalLM]) -> None:
    """In pools of NaN the drafts are those in pools of zeros, of one request at a time those of several."""
    target, found = made(llama_module(0)), []
    for filling, sizes in (
        (0.0, {}),
        (float("nan"), {"num_blocks": 26, "max_batch_tokens": 60}),
        (0.0, {"max_num_seqs": 1}),
    ):
        drafter = HeadDrafter(random_medusa(target), floor=0.0)
        drafts = told(drafter)
        one = engine(target, drafter, **sizes)
        for pool in one.cache.pools[1:]:
            for tensor in pool.tensors:
                tensor.fill_(filling)
        run(one, PROMPTS, GREEDY)
        found.append({tokens: tree.tokens for tokens, tree in drafts if len(tree)})
    assert found[0]
    assert found[0] == found[1] == found[2]


def test_a_request_with_a_hole_goes_without_a_draft() -> None:
    target = NativeModel(llama_module(0))
    drafter = HeadDrafter(random_medusa(target))
    drafts, heard = drafts_of(drafter), deaf_at_first(drafter)
    assert outputs(run(engine(target, drafter), PROMPTS[-1:], GREEDY)) == texts(target, NoDrafter())[-1:]
    assert heard() > 5
    assert not any(map(len, drafts))
